"""Replay a golden trace through our learner and print the largest relative error of every array.

python scripts/parity.py tests/golden/official_locomotion.npz
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from iql.commands import entry

if __name__ == "__main__":
    entry.parity()
