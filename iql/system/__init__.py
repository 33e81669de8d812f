"""The machine below the other rooms: files, locks, downloads, the data cache, memory, cores and worker processes.

May import only errors.
"""
