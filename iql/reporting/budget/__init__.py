"""Evaluation under a budget: how good a policy of a method is found with so many episodes.

May import the modules of reporting beside it that read runs, and runs, envs, system and errors.
"""
