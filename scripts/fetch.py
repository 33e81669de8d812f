"""Download datasets into the cache, for machines whose compute nodes have no network.

python scripts/fetch.py hopper-medium-v2 'antmaze-*-v2'
python scripts/fetch.py --list
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from iql.commands import entry

if __name__ == "__main__":
    entry.fetch()
