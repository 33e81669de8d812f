"""Evaluate a trained policy: more episodes than during training, a video, a picture, a JSON file.

python scripts/evaluate.py RUN
python scripts/evaluate.py RUN --episodes 20 --video rollout.mp4
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from iql.commands import entry

if __name__ == "__main__":
    entry.evaluate()
