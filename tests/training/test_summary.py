"""Records of runs: what is not finite is null in every file of ours, and nothing that reads them stumbles over it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from iql.evaluation.rollout import Episodes
from iql.runs import metrics_file
from iql.runs.metrics_file import MetricsFile, read_metrics, read_records, read_sample
from iql.system.atomic_files import read_json, write_json
from iql.training.summary import evaluation_record, summary

NAN, INF = math.nan, math.inf


class Task:
    """What a summary asks of a task."""

    def facts(self) -> dict[str, object]:
        return {"mujoco": None, "physics": None, "dataset": "some"}


def refuse(token: str) -> None:
    raise AssertionError(f"{token} is no JSON")


def recorded(*returns: list[float]) -> list[dict]:
    """An evaluation record for each list of returns, whose scores they are."""
    with np.errstate(invalid="ignore"):
        return [
            evaluation_record(20 * number, {}, np.array(each), Episodes(np.array(each), np.ones(2, int), []), 0.1)
            for number, each in enumerate(returns, start=1)
        ]


@pytest.mark.parametrize("odd", [NAN, INF, -INF])
def test_what_is_not_finite_is_null_in_lists_too(tmp_path, odd):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    for record in recorded([1.0, odd], [1.0, 2.0]):
        metrics.record(record)
    metrics.flush()
    lines = [json.loads(line, parse_constant=refuse) for line in metrics.path.read_text().splitlines()]
    assert [line["returns"] for line in lines] == [[1.0, None], [1.0, 2.0]]
    assert [line["score"] for line in lines] == [None, 1.5]
    write_json(tmp_path / "summary.json", {"final_returns": [odd, (1.0, odd)]})
    content = json.loads((tmp_path / "summary.json").read_text(), parse_constant=refuse)
    assert content == {"final_returns": [None, [1.0, None]]}


def test_files_of_earlier_versions_with_nan_in_them_are_read(tmp_path):
    record = '{"kind": "eval", "update": 5, "score": NaN, "returns": [1.0, NaN, -Infinity]}\n'
    (tmp_path / "metrics.jsonl").write_text(record)
    (tmp_path / "summary.json").write_text('{"score": NaN}')
    _, (read,) = read_metrics(tmp_path)
    assert read["score"] is None and read["returns"] == [1.0, None, None]
    assert read_sample(tmp_path / "metrics.jsonl", 1) == ([], [read], [])
    assert read_json(tmp_path / "summary.json") == {"score": None}


def test_a_sample_is_what_reading_line_by_line_gives(tmp_path, caplog, monkeypatch):
    """Of files that end anywhere, with damaged, empty and foreign lines, read in blocks that end anywhere."""
    path, random = tmp_path / "metrics.jsonl", np.random.default_rng(0)
    train = [f'{{"kind": "train", "update": {5 * number}, "q_loss": 0.5}}' for number in range(40)]
    evaluation = '{"kind": "eval", "update": 20, "score": 1.0}'
    odd = ["", " ", "}", '{"kind": "train",', '{"kind": "train"}', '{"kind": "train", "update": 3', "x}", evaluation]
    odd += [f"{evaluation}, {evaluation}", f"{train[0]},{train[1]}"]
    for _ in range(200):
        lines = random.choice([*train, *odd, *odd], random.integers(0, 30)).tolist()
        content = "\n".join(lines).encode()
        path.write_bytes(content[: random.integers(0, len(content) + 1)] + b"\n" * random.integers(0, 2))
        every = int(random.integers(1, 5))
        monkeypatch.setattr(metrics_file, "BLOCK_BYTES", int(random.integers(1, 200)))
        *whole, _ = path.read_bytes().decode().split("\n")
        looks = [line for line in whole if line.startswith('{"kind": "train",') and line.endswith("}")]
        caplog.clear()
        found = read_sample(path, every)
        damaged = {line for line in whole if line.strip() and line not in (*train, evaluation)}
        kept = [json.loads(line) for line in looks[::every] if line not in damaged]
        assert found == (kept, [json.loads(line) for line in whole if line == evaluation], [])
        others = [line for line in whole if line.strip() and line not in looks]
        assert len(caplog.messages) == sum(line in damaged for line in (*looks[::every], *others))


@pytest.mark.parametrize(
    ("returns", "last10", "final", "best"),
    [
        ([[1.0, 3.0], [4.0, 6.0]], 3.5, 5.0, 5.0),
        ([[1.0, NAN], [4.0, 6.0]], None, 5.0, 5.0),
        ([[1.0, 3.0], [INF, 6.0]], None, None, 2.0),
        ([[NAN, NAN]], None, None, None),
        ([], None, None, None),
    ],
)
def test_a_score_over_what_is_not_finite_is_unknown_and_never_an_error(tmp_path, returns, last10, final, best):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    for record in recorded(*returns):
        metrics.record(record)
    metrics.flush()
    settings = {
        "env": {"name": "own"}, "seed": 0, "updates": 40, "evaluation": {"headline": "last10", "episodes": 2}
    }  # fmt: skip
    found = summary(settings, read_records(metrics.path), Task(), {}, ("value", "q", "policy"))
    assert (found["score"], found["last10_score"], found["final_score"], found["best_score"]) == (
        last10,
        last10,
        final,
        best,
    )
