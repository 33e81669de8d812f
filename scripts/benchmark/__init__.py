"""Measurements of speed: one module for each part that `--only` of scripts/benchmark.py can name."""
