"""What the command line of a sweep asks for: its overrides, random draws, and the cells of its grid.

May import runs, config and errors.
"""
