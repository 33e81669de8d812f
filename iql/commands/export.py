"""Export a trained policy as a file for other programs, with a model card beside it.

python scripts/export.py RUN --out policy.onnx              # for onnxruntime, any language
python scripts/export.py RUN --out policy.pt2               # for torch.export.load, without iql
python scripts/export.py RUN --out policy.safetensors       # for iql.load_policy, one file without its run

RUN is a run's directory. Each file is read back and compared with PyTorch before it takes its name.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from iql.commands.exit_codes import exit_code_of
from iql.commands.usage import usage
from iql.config.phases import Phases
from iql.errors import UserError
from iql.policies.export import FORMATS, export
from iql.policies.model_card import model_card
from iql.policies.policy import load_policy
from iql.system.atomic_files import replace_file


def main() -> int:
    parser = argparse.ArgumentParser(description=usage(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run's directory")
    parser.add_argument("--out", nargs="+", type=Path, required=True, metavar="FILE", help=", ".join(FORMATS))
    parser.add_argument("--trust", action="store_true", help="run classes that the run names and iql does not have")
    options = parser.parse_args()
    return exit_code_of(lambda: write(options.run, options.out, options.trust))


def write(run: Path, files: list[Path], trust: bool) -> None:
    """Write the policy in every format, and a model card beside each; trust as in iql.load_policy. Raises UserError."""
    for file in files:
        if file.suffix not in FORMATS:
            raise UserError(f"--out {file}: must end in {', '.join(FORMATS)}")
        if not file.parent.is_dir():
            raise UserError(f"--out {file}: there is no folder {file.parent}; make it first")
    if run.is_file():
        raise UserError(f"{run}: give the directory of its run, whose files the model card needs")
    policy = load_policy(run, trust)
    if policy.settings is not None and policy.update < Phases.of(policy.settings).total:
        print(f"{run}: under way; the policy is that of update {policy.update:,}")
    for file in files:
        difference = export(policy, file)
        print(f"{file}: {policy.task}, update {policy.update:,}; differs from PyTorch by {difference:.1g} at most")
    for card in dict.fromkeys(file.with_suffix(".md") for file in files):
        own = [file for file in files if file.with_suffix(".md") == card]
        replace_file(card, model_card(policy, run, own).encode())
        print(card)
