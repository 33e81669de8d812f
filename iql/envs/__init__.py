"""Environments as rollouts step them; may import dataset_files, data, config, system and errors."""
