"""iql: Implicit Q-Learning (Kostrikov et al. 2021) on offline data, from one command to a checked score."""

__version__ = "0.1.0"
