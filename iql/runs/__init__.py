"""A run and its directory: identity, manifest, lease, checkpoints, metrics file, state and provenance.

May import config, system and errors.
"""
