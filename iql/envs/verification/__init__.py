"""Replay of recorded steps in a simulator; may import envs, dataset_files and errors."""
