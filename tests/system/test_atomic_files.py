"""Files that appear whole or not at all, whoever else writes them at the same time."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator

import pytest

from iql.runs.metrics_file import MetricsFile
from iql.system.atomic_files import refusal, remove_temporaries, replace_file, replacing


def test_writers_with_the_same_process_id_do_not_share_a_temporary_file(tmp_path):
    """As in two containers that share a cache: here both are this process."""
    path = tmp_path / "data.hdf5"
    with replacing(path) as one:
        one.write(b"a" * 50_000)
        with replacing(path) as other:
            other.write(b"b" * 70_000)
        assert path.read_bytes() == b"b" * 70_000
        one.write(b"a" * 50_000)
    assert path.read_bytes() == b"a" * 100_000
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("no space"), KeyboardInterrupt()])
def test_what_is_not_written_whole_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "data.hdf5"
    replace_file(path, b"before")
    with pytest.raises(type(error)), replacing(path) as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_what_killed_writes_left_is_removed_by_the_file_that_they_wrote(tmp_path):
    for name in ("data.hdf5", "other.hdf5"):
        (tmp_path / f".{name}.0123.tmp").write_bytes(b"half")
    remove_temporaries(tmp_path, "data.hdf5")
    assert [path.name for path in tmp_path.iterdir()] == [".other.hdf5.0123.tmp"]
    remove_temporaries(tmp_path)
    assert not list(tmp_path.iterdir())


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Within, the system refuses to write more than so many bytes to a file."""
    earlier, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (earlier, most))


@pytest.mark.parametrize("name", ["metrics.jsonl", "data.hdf5"])
def test_a_write_that_is_refused_names_the_file(tmp_path, name):
    path = tmp_path / name
    metrics = MetricsFile(path)
    metrics.record({"kind": "train", "text": "long" * 1000})
    with pytest.raises(OSError) as caught, files_of_at_most(1000):
        metrics.flush() if name == "metrics.jsonl" else replace_file(path, b"long" * 1000)
    assert refusal(caught.value).startswith(f"{path}: File too large")
