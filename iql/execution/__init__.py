"""How updates are carried out: with autograd, with gradients written out in torch or C, in CUDA graphs.

May import learner and what lies below it, config and system.
"""
