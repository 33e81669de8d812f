"""Transitions in memory: episodes, the Q-learning view, sampling and random streams; may import only errors."""
