"""Trained policies as objects: loaded, played, filmed, exported, described by a model card.

May import reporting, evaluation, runs, networks, tasks, config, system; never training.
"""
