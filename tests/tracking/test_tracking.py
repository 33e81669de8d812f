"""Trackers mirror every record of metrics.jsonl exactly once, and never stop or delay training."""

from __future__ import annotations

import gzip
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shlex import quote

import commands
import psutil
import pytest
from conftest import ROOT, SMALL, Trainer, mounts
from kills import stop_at

from iql.runs.metrics_file import read_records
from iql.tracking import RunInfo, TensorBoardTracker

# What each process under test starts with: two trackers and records to give them.
PRELUDE = """
import json, logging, os, signal, sys
from pathlib import Path
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
from iql.tracking import RunInfo, TensorBoardTracker, WandbTracker
import iql.tracking.wandb

def info(name, resumed=False):
    directory = Path(os.environ["TEST_RUNS"]) / name
    directory.mkdir(parents=True, exist_ok=True)
    return RunInfo(
        directory=directory, id=f"id-{name}", name=f"hopper {name}", group="tau=0.7", job_type="train",
        tags=("hopper", "sweep"), config={"seed": 1, "algorithm": {"tau": 0.7}},
        metrics=directory / "metrics.jsonl", resumed=resumed,
    )

def train(update):
    return {"kind": "train", "update": update, "value_loss": update / 1000, "code": "cpu"}

def evaluation(update):
    return {"kind": "eval", "update": update, "score": 50.0 - abs(update - 300) / 10, "returns": [1.0, 2.0]}

def record(info, records):
    with info.metrics.open("a") as file:
        file.writelines(json.dumps(record) + "\\n" for record in records)
"""


@pytest.fixture
def process(tmp_path: Path):
    """Runs code in a new process without a W&B key, with an empty home directory."""

    def run(code: str, timeout: float = 60, launcher: tuple[str, ...] = (), **environment: str):
        clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        clean.update(HOME=str(tmp_path), NETRC=str(tmp_path / "netrc"), TEST_RUNS=str(tmp_path / "runs"))
        return commands.run(
            [*launcher, sys.executable, "-c", PRELUDE + code],
            cwd=ROOT,
            env={**clean, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


def offline_folder(directory: Path) -> Path:
    """The only offline folder of a run; fails if there are several."""
    (folder,) = directory.glob("wandb/offline-run-*")
    return folder


def wandb_records(directory: Path) -> list[dict]:
    """What W&B's own reader finds in a run's offline folder."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(offline_folder(directory))]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return [json.loads(line) for line in lines.splitlines()]


def history(records: list[dict]) -> list[dict]:
    return [record["history"]["item"] for record in records if record["type"] == "history"]


def steps(directory: Path) -> list[int]:
    return [row["_step"] for row in history(wandb_records(directory))]


def warnings(result: commands.CompletedProcess) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith("WARNING")]


TWO_RUNS = """
trackers = [WandbTracker(), WandbTracker()]
for tracker, name in zip(trackers, "ab"):
    tracker.start(info(name))
for update in range(100, 600, 100):
    for tracker in trackers:
        tracker.log(train(update))
        if update in (300, 500):
            tracker.log(evaluation(update))
for tracker in trackers:
    tracker.finish({"final_score": 12.5})
"""


def test_two_runs_of_one_process_are_two_complete_offline_runs(process, tmp_path: Path) -> None:
    result = process(TWO_RUNS)
    assert (result.returncode, result.stdout) == (0, "")
    (line,) = result.stderr.splitlines()  # one line for the process, and nothing of W&B's own
    shown = re.search(r"`wandb beta leet (\S+)`.*`wandb sync (\S+)`", line)
    assert shown and Path(shown[1]) == Path(shown[2]) == offline_folder(tmp_path / "runs/a")
    for name in "ab":
        records = wandb_records(tmp_path / "runs" / name)
        rows = history(records)
        assert [(row["_step"], row["update"]) for row in rows] == [(s, s) for s in range(100, 600, 100)]
        assert [row["train/value_loss"] for row in rows] == [0.1, 0.2, 0.3, 0.4, 0.5]
        assert [row.get("eval/score") for row in rows] == [None, None, 50.0, None, 30.0]
        assert not any("returns" in key or "code" in key for row in rows for key in row)
        (run,) = [record["run"] for record in records if record["type"] == "run"]
        assert run["run_id"] == f"id-{name}"
        assert run["display_name"] == f"hopper {name}"
        assert run["project"] == "iql"
        assert run["run_group"] == "tau=0.7"
        assert run["job_type"] == "train"
        assert run["tags"] == ["hopper", "sweep"]
        config = run["config"]["update"]
        assert {key: config[key] for key in config if key != "_wandb"} == {
            "seed": 1,
            "algorithm": {"tau": 0.7},
        }
        updates = [r["summary"].get("update", {}) for r in records if r["type"] == "summary"]
        summary = {key: value for update in updates for key, value in update.items()}
        assert summary["eval/score"] == {"last": 30.0, "max": 50.0}
        assert summary["final_score"] == 12.5
        assert records[-1]["type"] == "exit"


ATTACHED = """
from iql.tracking import Artifacts
from matplotlib import image
import numpy as np
run = info("a")
image.imsave(run.directory / "curve.png", np.zeros((4, 6, 3)))
(run.directory / "networks.ckpt").write_bytes(b"weights")
artifacts = Artifacts({"curve": run.directory / "curve.png"}, run.directory / "networks.ckpt")
for tracker in (WandbTracker(artifact=True), TensorBoardTracker()):
    tracker.start(run)
    tracker.log(train(100))
    tracker.log(evaluation(100))
    tracker.attach(artifacts)
    tracker.finish({"final_score": 12.5, "final_returns": [1.0] * 100})
"""


def test_pictures_and_the_policy_are_shown_with_the_last_record(process, tmp_path: Path) -> None:
    result = process(ATTACHED)
    assert result.returncode == 0 and not warnings(result), result.stderr
    records = wandb_records(tmp_path / "runs/a")
    (row,) = history(records)
    assert (row["update"], row["eval/score"], row["curve._type"]) == (100, 30.0, "image-file")
    assert (offline_folder(tmp_path / "runs/a") / "files" / row["curve.path"]).stat().st_size == row["curve.size"]
    (artifact,) = [record["artifact"] for record in records if record["type"] == "artifact"]
    assert (artifact["name"], artifact["type"]) == ("policy-id-a", "model")
    assert [entry["path"] for entry in artifact["manifest"]["contents"]] == ["networks.ckpt"]
    assert "final_returns" not in json.dumps(records)  # a table of runs cannot show a list
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(tmp_path / "runs/a/tensorboard"))
    accumulator.Reload()
    (shown,) = accumulator.Images("curve")
    assert (shown.step, shown.width, shown.height) == (100, 6, 4)


def test_a_missing_picture_is_one_warning_and_nothing_else(process, tmp_path: Path) -> None:
    result = process(ATTACHED.replace("image.imsave", "(lambda *_: None)"))
    assert result.returncode == 0
    assert len(warnings(result)) == 2, result.stderr
    assert wandb_records(tmp_path / "runs/a")[-1]["exit"].get("exit_code", 0) == 0


def test_metrics_are_defined_over_updates_with_their_maximum(process, tmp_path: Path) -> None:
    process(TWO_RUNS)
    defined = {}
    for record in wandb_records(tmp_path / "runs/a"):
        if record["type"] == "metric":
            metric = record["metric"]
            defined[metric.get("name") or metric["glob_name"]] = metric
    assert {name for name, metric in defined.items() if metric.get("step_metric") == "update"} == {
        *("train/*", "eval/*", "eval/score", "eval/return_mean")
    }
    assert defined["update"]["options"]["hidden"]
    assert defined["eval/score"]["summary"] == {"last": True, "max": True}


def test_late_evaluation_keeps_its_update(process, tmp_path: Path) -> None:
    process("""
tracker = WandbTracker()
tracker.start(info("a"))
for record in (train(100), train(200), evaluation(100), train(300), evaluation(300)):
    tracker.log(record)
tracker.finish(None)
""")
    rows = history(wandb_records(tmp_path / "runs/a"))
    assert [row["_step"] for row in rows] == [100, 200, 201, 300]
    assert [row["update"] for row in rows] == [100, 200, 100, 300]
    assert "eval/score" in rows[2] and "train/value_loss" not in rows[2]


KILLED = """
tracker, run = WandbTracker(), info("a")
tracker.start(run)
for update in range(100, 500, 100):
    tracker.log(train(update))
print([p.pid for p in __import__("psutil").Process().children(recursive=True)], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""

RESUMED = """
run = info("a", resumed=True)
record(run, [train(100), evaluation(200), train(200)])
tracker = WandbTracker()
tracker.start(run)
for update in range(300, 600, 100):
    tracker.log(train(update))
tracker.finish(None)
"""


def test_a_killed_and_resumed_run_is_one_complete_offline_run(process, tmp_path: Path) -> None:
    killed = process(KILLED)
    assert killed.returncode == -9
    children = json.loads(killed.stdout)
    assert children, "W&B's service should have been running"
    _, left = psutil.wait_procs([psutil.Process(p) for p in children if psutil.pid_exists(p)], timeout=10)
    assert not left, "W&B's service outlived its killed parent"
    (tmp_path / "runs/a/metrics.jsonl").write_text("")
    assert process(RESUMED).returncode == 0
    rows = history(wandb_records(tmp_path / "runs/a"))
    assert [row["_step"] for row in rows] == [100, 200, 300, 400, 500]
    assert rows[1]["eval/score"] == 40.0 and rows[1]["train/value_loss"] == 0.2


def test_unrelated_environment_variables_are_ignored(process, tmp_path: Path) -> None:
    result = process(
        TWO_RUNS + "print(os.environ['WANDB_RUN_ID'], os.environ['WANDB_SERVICE'])",
        WANDB_RUN_ID="stray",
        WANDB_RESUME="must",
        WANDB_SWEEP_ID="stray",
        WANDB_NAME="stray",
        WANDB_RUN_GROUP="stray",
        WANDB_JOB_TYPE="stray",
        WANDB_TAGS="stray",
        WANDB_DIR=str(tmp_path / "stray"),
        WANDB_SERVICE="3-1-unix-/nowhere",
        WANDB_SILENT="false",
        WANDB_MODE="offline",
        WANDB_PROJECT="mine",
        WANDB_ENTITY="me",
    )
    assert result.returncode == 0
    assert not warnings(result)
    assert not (tmp_path / "stray").exists()
    for name in "ab":
        records = wandb_records(tmp_path / "runs" / name)
        assert "stray" not in json.dumps(records)
        (run,) = [record["run"] for record in records if record["type"] == "run"]
        assert (run["run_id"], run["project"], run["entity"]) == (f"id-{name}", "mine", "me")
    assert result.stdout == "stray 3-1-unix-/nowhere\n"  # the user's variables are as they were


def test_disabled_by_the_environment(process, tmp_path: Path) -> None:
    result = process(TWO_RUNS + "assert 'wandb' not in sys.modules", WANDB_MODE="disabled")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert not list(tmp_path.glob("runs/*/wandb"))


@pytest.mark.parametrize("server", ["closed", "silent"])
def test_unreachable_server_means_offline_with_one_line(process, tmp_path: Path, server: str) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if server == "silent":
            listener.listen()
        result = process(
            TWO_RUNS.replace("WandbTracker()", "WandbTracker(init_timeout=2)"),
            timeout=20,  # one attempt of 2 s, not one per run
            WANDB_BASE_URL=f"http://127.0.0.1:{listener.getsockname()[1]}",
            WANDB_API_KEY="0" * 40,
        )
    assert result.returncode == 0
    (line,) = result.stderr.splitlines()
    assert line.startswith("WARNING W&B could not go online") and "wandb sync" in line
    assert steps(tmp_path / "runs/a") == steps(tmp_path / "runs/b") == [100, 200, 300, 400, 500]


def test_unusable_key_means_offline(process, tmp_path: Path) -> None:
    result = process(TWO_RUNS, WANDB_API_KEY="short")
    assert result.returncode == 0
    (line,) = result.stderr.splitlines()
    assert "cannot use its key" in line and "wandb sync" in line
    assert steps(tmp_path / "runs/a") == steps(tmp_path / "runs/b") == [100, 200, 300, 400, 500]


def test_unknown_mode_is_one_line_per_run(process) -> None:
    result = process(TWO_RUNS, WANDB_MODE="sometimes")
    assert result.returncode == 0
    assert len(result.stderr.splitlines()) == len(warnings(result)) == 2


class FakeServer(ThreadingHTTPServer):
    """As much of W&B's server as a run needs; `history` holds the uploaded rows of each run."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), FakeHandler)
        self.history: dict[str, list[dict]] = {}
        self.runs: list[dict] = []
        self.environment = {
            "WANDB_BASE_URL": f"http://127.0.0.1:{self.server_port}",
            "WANDB_API_KEY": "0" * 40,
        }
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address) -> None:
        """A client that goes away is no error here."""

    def answer(self, operation: str, variables: dict) -> dict:
        rows = self.history.get(variables.get("name", ""), [])
        project = {"id": "p", "name": "iql", "entity": {"id": "e", "name": "me"}}
        bucket = {"id": "b", "name": variables.get("name"), "historyLineCount": len(rows)}
        if operation == "RunResumeStatus":
            tail = json.dumps([json.dumps(row) for row in rows[-1:]])
            bucket.update(eventsLineCount=0, logLineCount=0, historyTail=tail, eventsTail="[]")
            bucket.update(summaryMetrics="{}", config="{}", tags=[], wandbConfig='{"t": 1}')
            return {"model": {**project, "bucket": bucket if rows else None}}
        if operation == "UpsertBucket":
            self.runs.append(variables)
            return {"upsertBucket": {"bucket": {**bucket, "project": project}, "inserted": not rows}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": self.environment["WANDB_BASE_URL"]} for name in variables["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        return {"serverInfo": {"features": []}}


class FakeHandler(BaseHTTPRequestHandler):
    server: FakeServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        content = json.loads(gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body)
        if self.path == "/graphql":
            operation = re.search(r"(?:query|mutation)\s+(\w+)", content["query"])
            self.reply({"data": self.server.answer(operation[1] if operation else "", content.get("variables") or {})})
        elif self.path.endswith("/file_stream"):
            lines = (content.get("files") or {}).get("wandb-history.jsonl")
            if lines:
                rows = self.server.history.setdefault(self.path.split("/")[-2], [])
                rows[lines["offset"] :] = [json.loads(row) for row in lines["content"]]
            self.reply({"limits": {}})
        else:
            self.reply({})

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.reply({})

    def reply(self, content: dict) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def server():
    with FakeServer() as server:
        yield server
        server.shutdown()


def test_online_runs_and_their_resume(process, server: FakeServer, tmp_path: Path) -> None:
    result = process(TWO_RUNS, **server.environment)
    assert (result.returncode, result.stderr, result.stdout) == (0, "", "")
    assert sorted(server.history) == ["id-a", "id-b"]
    for rows in server.history.values():
        assert [row["_step"] for row in rows] == [100, 200, 300, 400, 500]
    assert server.runs[0]["groupName"] == "tau=0.7" and server.runs[0]["jobType"] == "train"

    server.history["id-a"] = server.history["id-a"][:1]  # the rest never arrived
    resumed = process(RESUMED.replace("(300,", "(200,"), **server.environment)
    assert (resumed.returncode, resumed.stderr) == (0, "")
    assert [row["_step"] for row in server.history["id-a"]] == [100, 200, 300, 400, 500]
    assert [row.get("eval/score") for row in server.history["id-a"]] == [None, 40.0, None, None, None]


@pytest.mark.slow
def test_a_packed_sweep_is_recorded_completely_and_one_command_uploads_it(
    environment, server: FakeServer, tmp_path: Path
) -> None:
    """Six runs in two processes of three, offline; then the upload as in docs/sweeps.md."""
    grid = [
        "algorithm.tau=0.7,0.9",
        "seed=0,1,2",
        "launcher.pack=3",
        "sweep.name=packed",
    ]
    overrides = [each for each in SMALL if each != "tracker=none"] + grid
    command = [sys.executable, str(ROOT / "sweep.py"), *overrides, f"runs={tmp_path}"]
    submitted = commands.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert "6 runs in 2 jobs of 3" in submitted.stdout, submitted.stdout + submitted.stderr
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("packed/*/*/*/wandb/offline-run-*/*.wandb"))) < 6 or unfinished(tmp_path):
        assert time.monotonic() < deadline, "the sweep does not end"
        time.sleep(0.5)
    runs = sorted(path.parent for path in tmp_path.glob("packed/*/*/*/summary.json"))
    expected = {}
    for run in runs:
        records = wandb_records(run)
        rows = history(records)
        numbers = [each for each in read_records(run / "metrics.jsonl")]
        updates = sorted({record["update"] for record in numbers})
        assert [(row["_step"], row["update"]) for row in rows] == [(update, update) for update in updates]
        for record in numbers:
            (row,) = [row for row in rows if row["update"] == record["update"]]
            for key, value in record.items():
                if isinstance(value, float):
                    assert row[f"{record['kind']}/{key}"] == pytest.approx(value, rel=1e-12)
        (opened,) = [record["run"] for record in records if record["type"] == "run"]
        settings = json.loads((run / "manifest.json").read_text())["settings"]
        config = opened["config"]["update"]
        assert (config["seed"], config["algorithm"]["tau"]) == (settings["seed"], settings["algorithm"]["tau"])
        assert (config["env"]["name"], config["sweep"]) == ("maze2d-umaze-made", "packed")
        assert "recipe" not in config["env"]
        assert opened["tags"] == ["maze2d-umaze-made", "packed"]
        assert opened["job_type"] == "maze2d-umaze-made"
        assert opened["run_group"].endswith(run.parent.name)
        assert {"curve.path", "map.path"} <= rows[-1].keys()
        updated = [record["summary"].get("update", {}) for record in records if record["type"] == "summary"]
        summary = {key: value for update in updated for key, value in update.items()}
        own = json.loads((run / "summary.json").read_text())
        for key in ("score", "final_score", "last10_score", "best_score", "success_rate"):
            assert summary[key] == pytest.approx(own[key])
        expected[opened["run_id"]] = updates
    groups = {record["run"]["run_group"] for run in runs for record in wandb_records(run) if record["type"] == "run"}
    assert (len(expected), len(groups)) == (6, 2)
    sync = f"{quote(str(Path(sys.executable).parent))}/wandb sync packed/*/*/*/wandb/offline-run-*"
    synced = subprocess.run(
        sync, shell=True, cwd=tmp_path, env={**environment, **server.environment, "HOME": str(tmp_path)},
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert synced.returncode == 0, synced.stdout + synced.stderr
    assert {name: [row["_step"] for row in rows] for name, rows in server.history.items()} == expected


def unfinished(folder: Path) -> list[Path]:
    """Run directories whose process has not finished."""
    return [
        path
        for path in folder.glob("packed/[!.]*/*/*")
        if not (path / "curve.png").exists() or (path / "lease.json").exists()
    ]


def test_an_online_run_writes_its_address_for_reports(process, server: FakeServer, tmp_path: Path) -> None:
    process(TWO_RUNS, **server.environment)
    address = (tmp_path / "runs/a/wandb/url").read_text()
    assert re.fullmatch(r"http\S+/me/iql/runs/id-a\n", address)
    process(TWO_RUNS.replace('"ab"', '"c"'), WANDB_MODE="offline")
    assert not (tmp_path / "runs/c/wandb/url").exists()


def test_pictures_are_added_to_a_run_whose_records_wandb_has_already(process, server: FakeServer) -> None:
    process(TWO_RUNS, **server.environment)
    again = ATTACHED.replace('info("a")', 'info("a", resumed=True)').replace(
        "(WandbTracker(artifact=True), ", "(WandbTracker(), "
    )
    again = again.replace("    tracker.log(train(100))\n    tracker.log(evaluation(100))\n", "")
    record = "record(run, [train(update) for update in range(100, 600, 100)])\nfor tracker"
    result = process(again.replace("for tracker", record, 1), **server.environment)
    assert result.returncode == 0 and not warnings(result), result.stderr
    rows = server.history["id-a"]
    assert [row["_step"] for row in rows[:5]] == [100, 200, 300, 400, 500]
    assert [(row["update"], row["curve"]["_type"]) for row in rows[5:]] == [(500, "image-file")], rows[5:]


def test_a_run_that_began_offline_is_complete_once_online(process, server: FakeServer, tmp_path: Path) -> None:
    process(KILLED)
    assert offline_folder(tmp_path / "runs/a")
    assert process(RESUMED, **server.environment).returncode == 0
    assert [row["_step"] for row in server.history["id-a"]] == [100, 200, 300, 400, 500]
    assert not list(tmp_path.glob("runs/a/wandb/offline-run-*")), "a later sync would send its rows again"


@pytest.mark.slow
def test_a_run_that_is_trained_again_is_another_run_and_a_resumed_one_the_same(
    train: Trainer, server: FakeServer, tmp_path: Path
) -> None:
    """It is trained again after its directory was deleted. W&B drops every step that it has already."""
    train.environment = {**train.environment, **server.environment, "WANDB_MODE": "online", "HOME": str(tmp_path)}
    overrides = ("tracker=wandb", "evaluation.every=null")
    assert train(*overrides, patch=stop_at(50)).returncode == -signal.SIGKILL
    assert train(*overrides).returncode == 0
    (directory,) = train.directories()
    shutil.rmtree(directory)
    assert train(*overrides).returncode == 0
    steps = [[row["_step"] for row in rows if "train/value_loss" in row] for rows in server.history.values()]
    assert steps == [list(range(5, 65, 5))] * 2


def test_network_lost_while_training(process, server: FakeServer, tmp_path: Path) -> None:
    """The server stops after the start; one line says how to upload the rest."""
    (tmp_path / "gone").mkdir()
    threading.Thread(target=close_when, args=(server, tmp_path / "ready"), daemon=True).start()
    result = process(
        """
import time
iql.tracking.wandb.FINISH_SECONDS = 1
trackers = [WandbTracker(), WandbTracker()]
for tracker, name in zip(trackers, "ab"):
    tracker.start(info(name))
ready = Path(os.environ["TEST_RUNS"]).parent / "ready"
ready.touch()
while ready.exists():
    time.sleep(0.01)
for update in range(100, 1000, 100):
    for tracker in trackers:
        tracker.log(train(update))
for tracker in trackers:
    tracker.finish({"final_score": 1.0})
""",
        **server.environment,
    )
    assert result.returncode == 0
    assert server.history == {}
    lines = result.stderr.splitlines()
    assert lines and lines == warnings(result)
    assert all("wandb sync --include-online" in line for line in lines)


def close_when(server: FakeServer, ready: Path) -> None:
    while not ready.exists():
        threading.Event().wait(0.01)
    server.shutdown()
    server.server_close()
    ready.unlink()


def test_service_killed_while_training(process, tmp_path: Path) -> None:
    result = process("""
import psutil
tracker = WandbTracker(mode="offline")
tracker.start(info("a"))
tracker.log(train(100))
for child in psutil.Process().children():
    child.kill()
    child.wait()
for update in range(200, 3000, 100):
    tracker.log(train(update))
tracker.finish({"final_score": 1.0})
""")
    assert result.returncode == 0
    assert len(warnings(result)) == 1, result.stderr
    assert "Traceback" not in result.stderr


def test_service_that_does_not_end_is_killed(process, tmp_path: Path) -> None:
    result = process("""
import psutil, iql.tracking.wandb_service
iql.tracking.wandb_service.STOP_SECONDS = 1
tracker = WandbTracker(mode="offline")
tracker.start(info("a"))
tracker.finish({"final_score": 1.0})
(service,) = psutil.Process().children()
service.suspend()
""")
    assert result.returncode == 0
    assert "Traceback" not in result.stderr, result.stderr
    left = psutil.process_iter(["cmdline"])  # None of those that are ending
    assert not [each for each in left if str(tmp_path) in " ".join(each.info["cmdline"] or [])]


@mounts
@pytest.mark.parametrize("tracker", ["WandbTracker", "TensorBoardTracker"])
def test_read_only_run_directory(process, tmp_path: Path, tracker: str) -> None:
    directory = tmp_path / "runs/a"
    directory.mkdir(parents=True)
    mount = f'mount --bind "{directory}" "{directory}" && mount -o remount,bind,ro "{directory}" && exec "$@"'
    result = process(
        f"""
tracker = {tracker}()
tracker.start(info("a"))
tracker.log(train(100))
tracker.finish({{"final_score": 1.0}})
print("trained")
""",
        launcher=("unshare", "-m", "sh", "-c", mount, "sh"),
    )
    assert (result.returncode, result.stdout) == (0, "trained\n")
    (line,) = result.stderr.splitlines()
    assert line.startswith("WARNING") and "Read-only file system" in line


@pytest.mark.parametrize(("tracker", "package"), [("WandbTracker", "wandb"), ("TensorBoardTracker", "tensorboard")])
def test_missing_package_is_one_line(process, tracker: str, package: str) -> None:
    result = process(f"""
sys.modules["{package}"] = None
tracker = {tracker}()
tracker.start(info("a"))
tracker.log(train(100))
tracker.finish(None)
""")
    assert result.returncode == 0
    (line,) = result.stderr.splitlines()
    assert line.startswith("WARNING") and f"pip install {package}" in line


def run_info(directory: Path, resumed: bool) -> RunInfo:
    return RunInfo(
        directory=directory,
        id="id",
        name="name",
        group="group",
        job_type="train",
        tags=(),
        config={},
        metrics=directory / "metrics.jsonl",
        resumed=resumed,
    )


def events(directory: Path, tag: str) -> list[tuple[int, float]]:
    """(step, value) of a tag, as TensorBoard's own reader finds them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(directory / "tensorboard"), size_guidance={"scalars": 0})
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


def test_tensorboard_has_each_record_once_after_a_resume(tmp_path: Path) -> None:
    tracker = TensorBoardTracker()
    tracker.start(run_info(tmp_path, resumed=False))
    records = [{"kind": "train", "update": u, "value_loss": u / 4} for u in range(1, 9)]
    for record in records:
        tracker.log(record)
    # Killed here: never finished. The checkpoint that it goes on from is that of update 5.
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records[:5]))
    resumed = TensorBoardTracker()
    resumed.start(run_info(tmp_path, resumed=True))
    for record in records[5:]:
        resumed.log(record)
    resumed.log({"kind": "eval", "update": 8, "score": 77.0, "returns": [1.0]})
    assert events(tmp_path, "train/value_loss") == [(u, u / 4) for u in range(1, 9)]  # read while it runs
    resumed.finish({"final_score": 77.0})
    assert events(tmp_path, "eval/score") == [(8, 77.0)]


def test_tensorboard_has_no_old_records_of_a_run_that_is_trained_again(tmp_path: Path) -> None:
    for count in (3, 2):
        tracker = TensorBoardTracker()
        tracker.start(run_info(tmp_path, resumed=False))
        for update in range(count):
            tracker.log({"kind": "train", "update": update, "value_loss": float(count)})
        tracker.finish(None)
    assert events(tmp_path, "train/value_loss") == [(0, 2.0), (1, 2.0)]


def test_tensorboard_on_a_full_disk_warns_once(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    tracker = TensorBoardTracker()
    tracker.start(run_info(tmp_path, resumed=False))
    with open("/dev/full", "wb") as full:
        os.dup2(full.fileno(), tracker._file.fileno())  # type: ignore[union-attr]
    for update in range(3):
        tracker.log({"kind": "train", "update": update, "value_loss": 1.0})
    tracker.finish(None)
    assert len(caplog.records) == 1 and "No space left" in caplog.text


def test_damaged_lines_are_reported_and_left_out(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = {"kind": "train", "update": 1, "value_loss": 0.5}
    line = json.dumps(whole).encode()
    path.write_bytes(line + b"\n\xff\xfe\n" + line + b"\n[1]\n" + line[:20])
    with caplog.at_level(logging.WARNING):
        assert read_records(path) == [whole, whole]
    assert [re.findall(r"line (\d+)", message)[0] for message in caplog.messages] == ["2", "4", "5"]
    assert all(str(path) in message for message in caplog.messages)
    assert read_records(tmp_path / "none.jsonl") == []
