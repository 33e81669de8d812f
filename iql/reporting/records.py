"""What a run directory holds, as plain records."""

from __future__ import annotations

from pathlib import Path

from iql.tracking.run import Record, read_records


def read_metrics(directory: Path | str) -> tuple[list[Record], list[Record]]:
    """A run's train and eval records, each in the order written; empty where there is no file yet.

    Damaged lines are left out, with a warning that names file and line.
    """
    records = read_records(Path(directory) / "metrics.jsonl")
    train = [record for record in records if record["kind"] == "train"]
    return train, [record for record in records if record["kind"] == "eval"]
