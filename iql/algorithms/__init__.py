"""Algorithms: one file each that reads like its paper, the equations, and what updates report.

May import data and networks. Knows no optimizer, device, thread, graph, file or log.
"""
