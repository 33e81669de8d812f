"""The state of a pack in training: parameters with the member axis, optimizers, targets, and an update of them.

May import algorithms, networks, data.
"""
