"""Copies of the code that jobs run: used again only if they equal what would be copied now."""

from __future__ import annotations

import logging
import os
import py_compile
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from iql.launching import submission

CODE = {"train.py": "1", "own/__init__.py": "", "own/deep/network.py": "2", "conf/config.yaml": "a: 1"}
NOT_COPIED = {"notes.txt": "", "tests/__init__.py": "", "own/__pycache__/deep.pyc": "", "runs/a.py": ""}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project in a folder whose name is one of those that are not copied."""
    root = tmp_path / "docs"
    for name, content in (CODE | NOT_COPIED).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def files(folder: Path) -> dict[str, str]:
    content = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    del content["git.json"]
    return content


def test_the_code_is_copied_once_until_it_changes(root, tmp_path, caplog):
    first = submission.snapshot(root, tmp_path / "code")
    assert files(first) == CODE
    assert submission.snapshot(root, tmp_path / "code") == first
    (root / "train.py").write_text("3")
    assert files(submission.snapshot(root, tmp_path / "code")) == CODE | {"train.py": "3"}
    assert files(first) == CODE
    assert not caplog.messages


def test_of_installed_packages_one_alone_is_copied(root, tmp_path):
    (root / "other").mkdir()
    (root / "other" / "__init__.py").write_text("")
    copy = submission.snapshot(root, tmp_path / "code", "own")
    assert files(copy) == {"own/__init__.py": "", "own/deep/network.py": "2"}


def edited(copy: Path) -> None:
    """Another text of the same length and modification time."""
    path = copy / "train.py"
    times = path.stat()
    path.write_text("7")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def linked(copy: Path) -> None:
    shutil.move(copy / "train.py", copy.with_name("elsewhere.py"))
    (copy / "train.py").symlink_to("../elsewhere.py")


def linked_folder(copy: Path) -> None:
    shutil.move(copy / "own", copy.with_name("own"))
    (copy / "own").symlink_to("../own")


def linked_cache(copy: Path) -> None:
    shutil.copytree(copy / "own", copy.with_name("cache"))
    (copy / "__pycache__").symlink_to("../cache")


def linked_whole(copy: Path) -> None:
    shutil.move(copy, copy.with_name("whole"))
    copy.symlink_to("whole")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "edited": edited,
    "one more": lambda copy: (copy / "torch.py").write_text("8"),
    "one more, whose name has two lines": lambda copy: (copy / "own" / "a\nb.py").write_text("8"),
    "bytecode without source": lambda copy: (copy / "own" / "torch.pyc").write_text("8"),
    "missing": lambda copy: (copy / "own/deep/network.py").unlink(),
    "a pipe": lambda copy: ((copy / "train.py").unlink(), os.mkfifo(copy / "train.py")),
    "another state": lambda copy: (copy / "git.json").write_text('{"commit": "0"}'),
    "a link": linked,
    "a link to a folder": linked_folder,
    "a link to bytecode": linked_cache,
    "a link to the whole": linked_whole,
    "empty": lambda copy: (shutil.rmtree(copy), copy.mkdir()),
    "a file": lambda copy: (shutil.rmtree(copy), copy.write_text("")),
}


def listing(folder: Path) -> dict[str, str | bytes | None]:
    """Everything within a folder: links by their targets, files by their content."""
    return {
        str(path): os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_snapshot_that_differs_is_kept_for_its_jobs_but_not_used_again(root, tmp_path, damage, caplog):
    first = submission.snapshot(root, tmp_path / "code")
    DAMAGE[damage](first)
    before = listing(tmp_path / "code")
    second = submission.snapshot(root, tmp_path / "code")
    assert second.name == f"{first.name}-2"
    assert files(second) == CODE
    assert before.items() <= listing(tmp_path / "code").items()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(first) in record.getMessage() and "\n" not in record.getMessage()
    assert submission.snapshot(root, tmp_path / "code") == second
    DAMAGE["one more"](second)
    assert submission.snapshot(root, tmp_path / "code").name == f"{first.name}-3"


def test_bytecode_in_a_snapshot_is_not_trusted(root, tmp_path, caplog):
    copy = submission.snapshot(root, tmp_path / "code")
    forged = tmp_path / "forged.py"
    forged.write_text("raise SystemExit('it ran')")
    for folder in ("", "own", "own/deep"):
        py_compile.compile(str(forged), str(copy / folder / "__pycache__" / "network.cpython.pyc"), doraise=True)
    assert submission.snapshot(root, tmp_path / "code") == copy
    assert files(copy) == CODE
    assert not caplog.messages
