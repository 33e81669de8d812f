"""Sweeps: a command line becomes runs, runs become packs, packs become jobs of a launcher. Imports no torch.

May import runs, tasks (for the sizes of data), config, system and errors.
"""
