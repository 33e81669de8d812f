"""Tasks: what joins a dataset, its environments and its score, one module a kind.

May import envs, dataset_files, data, config, system and errors.
"""
