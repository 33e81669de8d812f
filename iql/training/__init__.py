"""Training of a pack: its learner is built, updates, evaluations and checkpoints alternate, runs are finished.

May import every room below it: tracking, evaluation, runs, execution, learner, tasks, config, system.
"""
