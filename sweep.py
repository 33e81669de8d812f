"""Submit many runs: compose and check them all, group them into jobs, hand the jobs to a launcher, return.

python sweep.py env=hopper-medium-v2,walker2d-medium-v2 algorithm.tau=0.5,0.7,0.9 'seed=range(0,10)' launcher=slurm
python sweep.py sweep=locomotion launcher=slurm launcher.partition=gpu --dry-run
"""

from iql.commands import entry

if __name__ == "__main__":
    entry.sweep()
