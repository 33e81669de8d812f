"""Run directories read back as statistics, tables, charts and an HTML page, and the figures of a single run.

May import runs, envs (the simulators' versions), config, system and errors.
"""
