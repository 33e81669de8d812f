"""Train Implicit Q-Learning: compose a configuration, check it, train. The same command resumes.

python train.py
python train.py env=hopper-medium-v2 algorithm.tau=0.7 'seed=[0,1,2]'
"""

from iql.commands import entry

if __name__ == "__main__":
    entry.train()
