"""Measure how fast this machine trains: updates/s against the limit of its products, and what else a run costs.

python scripts/benchmark.py
python scripts/benchmark.py --only speed,costs,paper
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmark import command_line

if __name__ == "__main__":
    sys.exit(command_line.main())
