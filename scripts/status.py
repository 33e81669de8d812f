"""The state of every run of a sweep: done, running, waiting, failed or lost.

python scripts/status.py runs/locomotion
python scripts/status.py runs/locomotion --watch
python scripts/status.py runs/locomotion --retry
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from iql.commands import entry

if __name__ == "__main__":
    entry.status()
