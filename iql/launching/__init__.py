"""Sweeps: a command line becomes runs, runs become packs, packs become jobs. No module here imports torch.

command.py   the words of a sweep.py command line
grid.py      the runs that they spell out
plan.py      which of them are to be trained, and in which packs
ledger.py    what was submitted, on disk
snapshot.py  the code that jobs run
jobs.py      a job, where it runs
launcher.py  what a launcher must do; local.py and slurm.py are the two
standing.py  how every run stands: its files and what the queue says
tables.py    plan and standing, for people
"""
