"""Export a trained policy as a file for other programs, with a model card beside it.

python scripts/export.py RUN --out policy.onnx
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from iql.commands import entry

if __name__ == "__main__":
    entry.export()
