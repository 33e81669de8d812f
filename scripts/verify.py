"""Repeat a dataset's recorded steps in our simulator: do data and simulator belong together?

python scripts/verify.py hopper-medium-v2
python scripts/verify.py hopper-medium-expert-v2 my.hdf5 --steps all
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from iql.commands import entry

if __name__ == "__main__":
    entry.verify()
