"""scripts/fetch.py as its users run it, against a server that plays the data server's part.

The addresses in conf/env are plain http, so that a proxy (http_proxy) hands the files out instead.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import commands
import h5py
import numpy as np
import pytest
from data_server import Handler, Site, size, wait_until

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"door": (39, 28), "pen": (45, 24), "hammer": (46, 26)}
DOOR, PEN, HAMMER = "door-human-v1", "pen-human-v1", "hammer-human-v1"
ROWS = {DOOR: 6_729, PEN: 5_000, HAMMER: 11_310}


def content(folder: Path, name: str, rows: int) -> bytes:
    """A file like D4RL's of that name, with so many rows."""
    observation_dim, action_dim = SIZES[name.split("-")[0]]
    draws = np.random.default_rng(0)
    with h5py.File(folder / "made.hdf5", "w") as file:
        file["observations"] = draws.normal(size=(rows, observation_dim)).astype(np.float32)
        file.create_dataset("actions", data=np.zeros((rows, action_dim), np.float32), compression="gzip")
        file["rewards"] = np.linspace(0, 1, rows, dtype=np.float32)
        file["terminals"] = np.zeros(rows, bool)
        file["timeouts"] = np.arange(1, rows + 1) % 100 == 0
    return (folder / "made.hdf5").read_bytes()


@pytest.fixture(scope="module")
def contents(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("served")
    return {name: content(folder, name, rows) for name, rows in ROWS.items()}


class Shelf:
    """Several files behind one server, each a Site of its own; `asked` lists what was asked for, in order."""

    def __init__(self, contents: dict[str, bytes]):
        self.sites = {f"{name}.hdf5": Site(data) for name, data in contents.items()}
        self.asked: list[str] = []

    def __getitem__(self, task: str) -> Site:
        return self.sites[f"{task}.hdf5"]


class ShelfHandler(Handler):
    shelf: Shelf

    def do_GET(self) -> None:  # noqa: N802
        name = self.path.rpartition("/")[2]
        self.shelf.asked.append(name)
        if name not in self.shelf.sites:
            self.send_error(404)
            return
        self.site = self.shelf.sites[name]
        super().do_GET()


@pytest.fixture
def shelf(contents, tmp_path, monkeypatch) -> Iterator[Shelf]:
    """The files behind a proxy, an empty cache and home, and little patience."""
    shelf = Shelf(contents)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (ShelfHandler,), {"shelf": shelf}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    for key in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "D4RL_DATASET_DIR"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("IQL_DATA_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("IQL_DOWNLOAD_TIMEOUT", "20")
    yield shelf
    for site in shelf.sites.values():
        site.go.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


def start(*words: str) -> commands.Process:
    command = [sys.executable, str(ROOT / "scripts" / "fetch.py"), *words]
    return commands.start(command, stdout=commands.PIPE, stderr=commands.PIPE, text=True, start_new_session=True)


def fetch(*words: str) -> commands.CompletedProcess[str]:
    process = start(*words)
    out, err = process.communicate(timeout=120)
    return commands.CompletedProcess(process.args, process.returncode, out, err)


def complaints(done: commands.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("fetch.py: ")]


# Fetching.


def test_a_dataset_arrives_checked_with_its_digest(shelf, cache, contents):
    done = fetch(DOOR)
    assert done.returncode == 0, done.stderr
    path = cache / f"{DOOR}.hdf5"
    assert path.read_bytes() == contents[DOOR]
    digest = hashlib.sha256(contents[DOOR]).hexdigest()
    assert path.with_name(f"{DOOR}.hdf5.sha256").read_text().startswith(digest)
    line, summary = done.stdout.splitlines()
    assert line.startswith(f"{DOOR}: fetched, 6,661 transitions, {path}, ")
    assert line.endswith(f"SHA-256 {digest[:12]}")
    assert summary == "1 fetched, 0 already there, 0 failed"


def test_what_is_there_is_not_fetched_again(shelf, cache, contents, tmp_path):
    fetch(DOOR)
    theirs = tmp_path / "home" / ".d4rl" / "datasets"
    theirs.mkdir(parents=True)
    (theirs / f"{PEN}.hdf5").write_bytes(contents[PEN])
    done = fetch(DOOR, PEN)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "0 fetched, 2 already there, 0 failed"
    assert str(theirs / f"{PEN}.hdf5") in done.stdout
    assert shelf.asked == [f"{DOOR}.hdf5"]


def test_killed_with_9_the_same_command_resumes(shelf, cache, contents):
    shelf[DOOR].sends, shelf[DOOR].stalls = 300_000, True
    process = start(DOOR)
    wait_until(lambda: size(cache / f"{DOOR}.hdf5.part") > 200_000)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    have = size(cache / f"{DOOR}.hdf5.part")
    listed = fetch("--list", DOOR).stdout.splitlines()[1]
    assert listed.split()[:2] == [DOOR, "–"]
    assert listed.endswith(f"{have / 2**20:.1f} MiB")
    shelf[DOOR].sends = None
    assert fetch(DOOR).returncode == 0
    assert (cache / f"{DOOR}.hdf5").read_bytes() == contents[DOOR]
    assert shelf[DOOR].sent_from == [0, have]


def test_interrupted_it_says_how_to_go_on(shelf, cache):
    shelf[DOOR].sends, shelf[DOOR].stalls = 300_000, True
    process = start(DOOR)
    wait_until(lambda: size(cache / f"{DOOR}.hdf5.part") > 200_000)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "fetch.py: interrupted; the same command resumes"
    assert "Traceback" not in err


def test_one_that_fails_does_not_keep_the_others(shelf, cache, contents):
    shelf[PEN].status = 404
    done = fetch(DOOR, PEN, HAMMER)
    assert done.returncode == 1
    assert [line.split(": ")[0] for line in done.stdout.splitlines()[:-1]] == [DOOR, HAMMER]
    assert done.stdout.splitlines()[-1] == f"2 fetched, 0 already there, 1 failed ({PEN})"
    (complaint,) = complaints(done)
    assert complaint.startswith(f"fetch.py: {PEN}: ") and "answered 404" in complaint


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"kind": "text/html"}, "sent a web page (HTML)"),
        ({"sends": 300_000}, "the same command resumes"),
        ({"content": b"\x1f\x8b" + bytes(5000)}, "is not an HDF5 file"),
    ],
    ids=["web page", "cut", "no HDF5"],
)
def test_a_bad_answer_is_one_line(shelf, cache, edit, message):
    for key, value in edit.items():
        setattr(shelf[DOOR], key, value)
    done = fetch(DOOR)
    assert done.returncode == 1
    (complaint,) = complaints(done)
    assert message in complaint
    assert not (cache / f"{DOOR}.hdf5").exists()


def test_the_checks_of_training_are_made(shelf, cache, tmp_path, contents):
    shelf[DOOR].content = content(tmp_path, DOOR, 500)
    shelf[PEN].content = contents[HAMMER]
    done = fetch(DOOR, PEN)
    assert done.returncode == 1
    rows, sizes = complaints(done)
    assert f"has 500 rows where D4RL's {DOOR} has 6,729" in rows
    assert "observations of 46 entries and actions of 26" in sizes


def test_a_file_that_changed_in_the_cache_is_refused(shelf, cache):
    fetch(DOOR)
    with (cache / f"{DOOR}.hdf5").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
    done = fetch(DOOR)
    assert done.returncode == 1
    assert "was changed or damaged" in complaints(done)[0]


def test_a_place_that_cannot_be_written_is_one_line(shelf, cache):
    cache.write_text("a file where the folder should be")
    done = fetch(DOOR)
    assert done.returncode == 1
    assert complaints(done)[0].startswith(f"fetch.py: {DOOR}: cannot write to {cache}")


def test_the_embedded_data_is_made_and_kept(shelf, cache):
    words = ("maze2d-umaze-made", "env.made_rows=1000,2000")
    done = fetch(*words)
    assert done.returncode == 0, done.stderr
    made = [f"maze2d-umaze-made-rows{rows}-seed0.hdf5" for rows in (1000, 2000)]
    assert sorted(path.name for path in (cache / "made").glob("*.hdf5")) == made
    assert fetch(*words).stdout.splitlines()[-1] == "0 fetched, 2 already there, 0 failed"
    assert [line.split()[1] for line in fetch("--list", *words).stdout.splitlines()[1:3]] == ["cache", "cache"]


# What is asked for.


def test_a_pattern(shelf):
    done = fetch("*-human-v1")
    assert done.stdout.splitlines()[-1] == "3 fetched, 0 already there, 1 failed (relocate-human-v1)"


def test_the_words_of_a_sweep(shelf):
    done = fetch(f"env={DOOR},{PEN}", "algorithm.tau=0.7,0.9", "seed=range(0,10)", "launcher=slurm", DOOR)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "2 fetched, 0 already there, 0 failed"
    assert "not about data, ignored: algorithm.tau=0.7,0.9 seed=range(0,10) launcher=slurm" in done.stderr
    assert shelf.asked == [f"{DOOR}.hdf5", f"{PEN}.hdf5"]


@pytest.mark.parametrize("word", ["env=glob(pen-h*-v1)", "env=choice(pen-human-v1)", "env=pen-human-v1", "pen-h*-v1"])
def test_other_grammar_for_the_same(shelf, word):
    done = fetch("--list", word)
    assert [line.split()[0] for line in done.stdout.splitlines()[1:-1]] == [PEN]


def test_tasks_of_one_file_share_it(shelf, contents):
    """Two tasks whose url is one: the second finds what the first brought."""
    url = "http://data.example.org/sets/door-human-v1.hdf5"
    done = fetch("door-cloned-v1", "door-expert-v1", f"env.url={url}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "1 fetched, 1 already there, 0 failed"
    assert shelf.asked == ["door-human-v1.hdf5"]


def test_the_tasks_of_an_ogbench_file_are_fetched_and_checked_once(shelf, cache, tmp_path):
    pytest.importorskip("ogbench")
    from ogbench_data import make

    whole = make(tmp_path / "made.npz", "cube-single-play-v0", steps=10, episodes=2).read_bytes()
    shelf.sites["cube-single-play-v0.npz"] = Site(whole)
    first, second = (f"cube-single-play-singletask-task{task}-v0" for task in (1, 3))
    done = fetch(first, second, "env.url=http://data.example.org/cube-single-play-v0.npz")
    assert done.returncode == 0, done.stderr
    assert shelf.asked == ["cube-single-play-v0.npz"]
    path = cache / "cube-single-play-v0.npz"
    assert path.read_bytes() == whole
    one, other, summary = done.stdout.splitlines()
    assert one.startswith(f"{first}: fetched, 20 transitions, {path}, ")
    assert other == f"{second}: already there, the file of {first}"
    assert summary == "1 fetched, 1 already there, 0 failed"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hoper-medium-v2"], "hoper-medium-v2 is no task; did you mean hopper-medium-v2"),
        (["env=hopper-medium-v2,walker-medium-v2"], "walker-medium-v2 is no task; did you mean walker2d-medium-v2"),
        (["nothing-*"], "nothing-* matches no task"),
        (["seed=1"], "no task is named"),
        (["env=a,,b"], "env=a,,b: "),
        ([DOOR, "env.made_rows=1000"], "env.made_rows cannot be set so for door-human-v1"),
    ],
)
def test_wrong_words_are_one_line(shelf, words, message):
    done = fetch(*words)
    assert (done.returncode, done.stdout) == (1, "")
    (complaint,) = complaints(done)
    assert message in complaint
    assert shelf.asked == []


def test_data_of_ones_own_is_refused(shelf):
    done = fetch("env=hdf5", "env.path=mine.hdf5")
    assert done.returncode == 1
    assert "is not fetched: copy the file" in complaints(done)[0]


# The list.


def test_the_list_shows_every_task_and_the_total(shelf, cache, contents):
    fetch(DOOR)
    done = fetch("--list")
    assert done.returncode == 0
    head, *lines, total = done.stdout.splitlines()
    assert head.split()[:5] == ["task", "where", "size", "rows", "SHA-256"]
    tasks = {path.stem for path in (ROOT / "conf" / "env").glob("*.yaml")} - {"hdf5", "minari", "ogbench"}
    shown = [line.split()[0] for line in lines]
    # A default task of OGBench's is shown once, under the name that says its number.
    assert set(shown) == {name for name in tasks if not name.endswith("-singletask-v0")}
    assert len(shown) == len(set(shown))
    mebibytes = f"{len(contents[DOOR]) / 2**20:.1f}"
    (door,) = [line.split() for line in lines if line.startswith(DOOR)]
    assert door == [DOOR, "cache", mebibytes, "MiB", "6,729", hashlib.sha256(contents[DOOR]).hexdigest()[:12]]
    (pen,) = [line.split() for line in lines if line.startswith(PEN)]
    assert pen == [PEN, "–", "–", "5,000", "–"]
    assert total == f"1 files, {mebibytes} MiB; the cache is {cache}"


def test_the_list_loads_neither_torch_nor_the_simulator(shelf):
    code = "import runpy, sys; sys.argv = ['fetch.py', '--list']\n"
    code += f"try: runpy.run_path({str(ROOT / 'scripts' / 'fetch.py')!r}, run_name='__main__')\n"
    code += "except SystemExit: print([m for m in ('torch', 'requests', 'mujoco', 'gymnasium') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    loaded = done.stdout.splitlines()[-1]
    assert "torch" not in loaded and "mujoco" not in loaded, loaded


def test_fetching_loads_no_torch(shelf):
    code = f"import runpy, sys; sys.argv = ['fetch.py', {DOOR!r}]\n"
    code += f"try: runpy.run_path({str(ROOT / 'scripts' / 'fetch.py')!r}, run_name='__main__')\n"
    code += "except SystemExit: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    assert "1 fetched" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"


def test_a_named_sweep(shelf):
    done = fetch("--list", "sweep=adroit", f"env={DOOR},{PEN}")
    assert [line.split()[0] for line in done.stdout.splitlines()[1:-1]] == [DOOR, PEN]
    assert "ignored: seed=range(0,10) sweep.name=adroit" in done.stderr
    kitchen = [line.split()[0] for line in fetch("--list", "sweep=kitchen").stdout.splitlines()[1:-1]]
    assert kitchen == ["kitchen-complete-v0", "kitchen-partial-v0", "kitchen-mixed-v0"]
