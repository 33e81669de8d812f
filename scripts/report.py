"""The results of runs: tables with intervals beside the published numbers, and a page of charts.

python scripts/report.py runs/locomotion
python scripts/report.py runs/locomotion --out report.html table.tex
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from iql.commands import entry

if __name__ == "__main__":
    entry.report()
