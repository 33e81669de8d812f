"""Reading data files of every format into checked rows; may import data, config, system and errors."""
