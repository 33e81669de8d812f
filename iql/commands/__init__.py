"""The commands that users type, one module each; entry.py starts them and exit_codes.py ends them.

May import every other room.
"""
