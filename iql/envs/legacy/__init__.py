"""D4RL's original environments in a process of the old Python stack; may import config, system and errors."""
