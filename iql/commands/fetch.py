"""Download datasets into the cache, for machines whose compute nodes have no network.

    python scripts/fetch.py hopper-medium-v2 'antmaze-*-v2'
    python scripts/fetch.py env=hopper-medium-v2,walker2d-medium-v2 algorithm.tau=0.7,0.9 'seed=range(0,10)'
    python scripts/fetch.py sweep=locomotion
    python scripts/fetch.py --list

A name is a task's, a quoted pattern of names, or the overrides of a train.py or sweep.py command line, of which
env and env.* matter here. The cache is IQL_DATA_DIR (default ~/.cache/iql); what lies there or in D4RL's or OGBench's
own folder is not downloaded again. Every file is checked as training checks it, and a download that was cut is
resumed by the same command. Exit code 1 if one of the datasets could not be downloaded.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException

from iql.commands.exit_codes import exit_code_of
from iql.commands.usage import usage
from iql.config import folders, task_configs
from iql.config.validation import composition_problem
from iql.errors import UserError
from iql.launching.grids import command, grid
from iql.system import data_cache

Request = tuple[str, tuple[str, ...]]
"""A task's name and the overrides of env.* that it is to have."""

DIGITS = 12  # of a SHA-256 shown

log = logging.getLogger(__name__)


def requests_of(arguments: list[str]) -> list[Request]:
    """The requests of a command line, each once, in order; overrides that do not choose data are printed and ignored.

    Raises UserError for an unknown name, or an override that is not in Hydra's grammar.
    """
    chosen: list[Request] = []
    changes: list[list[str]] = []
    ignored: list[str] = []
    names = [argument for argument in arguments if "=" not in argument]
    for argument in [*names, *_with_named_sweep([argument for argument in arguments if "=" in argument])]:
        dataset = argument.removeprefix("minari:")
        if dataset != argument:
            chosen.append(("minari", (f"env.dataset={dataset}",)))
        elif "=" not in argument:
            chosen += [(name, ()) for name in task_configs.matching(argument)]
        else:
            (override,) = command.parse([argument])
            key = override.key_or_group
            if key == "env":
                chosen += [(name, ()) for value in _values(override) for name in task_configs.matching(value)]
            elif key.startswith("env."):
                changes.append([f"{override.get_key_element()}={value}" for value in _values(override)])
            else:
                ignored.append(argument)
    if ignored:
        print(f"not about data, ignored: {' '.join(ignored)}", file=sys.stderr)
    if not chosen:
        raise UserError("no task is named: give NAME or env=NAME; --list shows the names")
    products = [(name, own + more) for name, own in chosen for more in itertools.product(*changes)]
    return list(dict.fromkeys(products))


def _with_named_sweep(overrides: list[str]) -> list[str]:
    """The overrides, with `sweep=NAME` replaced by those of the named sweep. Raises UserError."""
    try:
        return command.expand_named_sweep(overrides)
    except HydraException as error:
        raise UserError(composition_problem(error) or str(error)) from error


def _values(override: Override) -> list[str]:
    """The values of an override; glob() selects among the names of the tasks."""
    value = override.value()
    return value.filter(task_configs.names()) if isinstance(value, Glob) else grid.values_of(override)


def fetch(node: dict[str, Any], checked: dict[Path, str]) -> bool:
    """Download the data of an env section if it is not here, and check it as training does; whether it was missing.

    checked: the files that were checked before, by the name of the first task that has them; its own is added. Prints a
    line about the data. Raises UserError.
    """
    if node["_target_"].endswith(".FileTask") or node.get("path"):
        raise UserError("data of your own (env.path=FILE) is not fetched: copy the file to where the jobs can read it")
    before = task_configs.local_path(node)
    if before in checked:
        print(f"{node['name']}: already there, the file of {checked[before]}", flush=True)
        return False
    task = task_configs.task(node)
    transitions = task.transitions()
    now = task_configs.local_path(node)
    where = f"{now}, {_size(now.stat().st_size)}" if now else "in the folder that its own library keeps"
    what = "fetched" if before is None else "already there"
    digest = data_cache.sha256(now) if now else task.digest
    if now:
        checked[now] = node["name"]
    print(f"{node['name']}: {what}, {len(transitions):,} transitions, {where}, SHA-256 {digest[:DIGITS]}", flush=True)
    return before is None


def fetch_all(nodes: list[dict[str, Any]]) -> int:
    """Fetch one after the other, going on after a failure; returns the exit code."""
    fetched: list[str] = []
    there: list[str] = []
    failed: list[str] = []
    checked: dict[Path, str] = {}
    for number, node in enumerate(nodes, 1):
        log.info("%d of %d: %s", number, len(nodes), node["name"])
        try:
            (fetched if fetch(node, checked) else there).append(node["name"])
        except (UserError, OSError) as error:
            print(f"{Path(sys.argv[0]).name}: {node['name']}: {usage(str(error))}", file=sys.stderr)
            failed.append(node["name"])
    named = f" ({', '.join(failed)})" if failed else ""
    print(f"{len(fetched)} fetched, {len(there)} already there, {len(failed)} failed{named}")
    return 1 if failed else 0


def table(nodes: list[dict[str, Any]]) -> str:
    """A table of the data of every env section: where it is, its size and rows; below it the total size."""
    lines = [("task", "where", "size", "rows", "SHA-256", "partial download")]
    sizes: dict[Path, int] = {}
    for node in nodes:
        own, now = task_configs.cached_path(node), task_configs.local_path(node)
        part = own.with_name(f"{own.name}.part") if own else None
        if now is not None:
            sizes[now] = now.stat().st_size
        rows = node.get("rows") or node.get("made_rows")
        lines.append(
            (
                node["name"],
                "–" if now is None else "cache" if now == own else str(now.parent),
                _size(sizes[now]) if now else "–",
                f"{rows:,}" if rows else "not known",
                _recorded(now) if now else "–",
                _size(part.stat().st_size) if part and part.is_file() else "",
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    right = (2, 3)
    shown = [
        "  ".join(
            text.rjust(width) if column in right else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    total = f"{len(sizes)} files, {_size(sum(sizes.values()))}; the cache is {data_cache.cache_dir()}"
    return "\n".join([*shown, total])


def _recorded(path: Path) -> str:
    """The beginning of the SHA-256 that was recorded beside a file when it was first used."""
    try:
        return path.with_name(f"{path.name}.sha256").read_text()[:DIGITS]
    except OSError:
        return "–"


def _size(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        epilog="The cache is the folder IQL_DATA_DIR, by default ~/.cache/iql; set it to choose another, for training "
        "too. A download that was cut is resumed by the same command.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="a task, a quoted pattern, or a sweep's overrides (env=A,B)"
    )
    parser.add_argument("--list", action="store_true", help="show what there is and download nothing")
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="a folder of your own, searched after conf/")
    options = parser.parse_args()
    if not options.names and not options.list:
        parser.error("give a NAME, or --list")
    return exit_code_of(lambda: fetch_or_list(options), "interrupted; the same command resumes")


def fetch_or_list(options: argparse.Namespace) -> int:
    """Do what the options ask for; returns the exit code. Raises UserError."""
    if options.config_dir is not None:
        folders.add(options.config_dir)
    requests = requests_of(options.names) if options.names else [(name, ()) for name in task_configs.names()]
    found = task_configs.settings(requests)
    nodes = [node for index, node in enumerate(found) if node not in found[:index]]  # a default task has two names
    if not options.list:
        return fetch_all(nodes)
    print(table(nodes))
    return 0
