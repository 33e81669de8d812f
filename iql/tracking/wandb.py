"""Weights & Biases: a run mirrored online or offline."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from iql.runs.metrics_file import Record, read_records
from iql.system.atomic_files import replace_file
from iql.tracking.tracker import Artifacts, RunInfo, one_line, scalars
from iql.tracking.wandb_service import resolve_mode, start_service

log = logging.getLogger(__name__)

FINISH_SECONDS = 10  # for the upload at the end of an online run; what is left is uploaded by `wandb sync`


@dataclass
class Session:
    """State that the W&B runs of one process share.

    offline        no further run of this process tries to go online
    hint_logged    the line that says where offline runs are has been logged
    upload_stalled an upload did not end in time, so that later runs do not wait for theirs
    open_runs      the number of runs that are open
    """

    offline: bool = False
    hint_logged: bool = False
    upload_stalled: bool = False
    open_runs: int = 0


SESSION = Session()


class WandbTracker:
    """One W&B run for each run, several at a time in one process (see `Tracker` for what it guarantees).

    project, entity  where the run is tracked; WANDB_PROJECT and WANDB_ENTITY take precedence
    mode             auto (online if there is a key, else offline), online, offline or disabled; WANDB_MODE takes
                     precedence
    init_timeout     seconds; each process tries once to go online
    artifact         whether the final networks are uploaded too, as an artifact of type model
    """

    def __init__(
        self,
        project: str = "iql",
        entity: str | None = None,
        mode: str = "auto",
        init_timeout: float = 10.0,
        artifact: bool = False,
    ) -> None:
        self._project = os.environ.get("WANDB_PROJECT") or project
        self._entity = os.environ.get("WANDB_ENTITY") or entity
        self._mode = os.environ.get("WANDB_MODE") or mode
        self._init_timeout = init_timeout
        self._artifact = artifact
        self._run: Any = None
        self._first = 0  # W&B has the records of updates before this one already
        self._step = -1  # the last step given to W&B
        self._update: int | None = None  # the update of that step
        self._last = 0  # the update of the last record, whether it was sent now or earlier

    def start(self, info: RunInfo) -> None:
        """Open the run; a resumed one is sent the missing records of `info.metrics`."""
        if self._mode == "disabled":
            return
        try:
            import wandb
        except ImportError as error:
            log.warning(
                "W&B is not tracked (%s): pip install wandb; training goes on, metrics.jsonl is the record",
                one_line(error),
            )
            return
        try:
            self._open(wandb, info)
            for record in read_records(info.metrics) if info.resumed else []:
                self._write(record)
        except Exception as error:
            self._give_up(error)

    def log(self, record: Record) -> None:
        """Send a record to W&B's service process on this machine (0.2 ms), never directly over the network."""
        if self._run is None:
            return
        try:
            self._write(record)
        except Exception as error:
            self._give_up(error)

    def attach(self, artifacts: Artifacts) -> None:
        """Add the pictures to the last record and, if configured, upload the networks as an artifact."""
        if self._run is None:
            return
        try:
            import wandb

            images = {name: wandb.Image(str(path)) for name, path in artifacts.pictures.items()}
            if images:
                self._run.log({**images, "update": self._last}, step=max(self._step, self._first))
            if self._artifact:
                artifact = wandb.Artifact(f"policy-{self._run.id}", "model", metadata={"update": self._last})
                artifact.add_file(str(artifacts.networks))
                self._run.log_artifact(artifact)
        except Exception as error:
            log.warning("W&B has no pictures or artifact of %s (%s)", artifacts.networks.parent, one_line(error))

    def finish(self, summary: Record | None, exit_code: int = 0) -> None:
        """Add the numbers and texts of `summary` to the run and close it; an upload may take FINISH_SECONDS."""
        if self._run is None:
            return
        try:
            if summary:  # without lists, which W&B's table of runs cannot show
                self._run.summary.update({key: value for key, value in summary.items() if not isinstance(value, list)})
            self._close(exit_code)
        except Exception as error:
            self._give_up(error)

    def _open(self, wandb: ModuleType, info: RunInfo) -> None:
        folder = info.directory / "wandb"
        folder.mkdir(parents=True, exist_ok=True)
        # W&B falls back to /tmp silently where it cannot write, so this is checked first.
        tempfile.TemporaryFile(dir=folder).close()
        settings = start_service(wandb, self._init_timeout, FINISH_SECONDS)
        mode, reason = resolve_mode(wandb, self._mode)
        level = logging.INFO
        if mode == "disabled":
            return
        if mode == "online" and not SESSION.offline:
            try:
                self._run = self._init(wandb, info, settings, "online")
                self._first = int(self._run.starting_step) if self._run.resumed else 0
            except Exception as error:
                SESSION.offline, level = True, logging.WARNING
                reason = f"could not go online ({one_line(error)})"
                if SESSION.open_runs:  # the service, which the other runs use, has the failed run's id
                    raise
                wandb.teardown()
                settings = start_service(wandb, self._init_timeout, FINISH_SECONDS)
        for earlier in folder.glob("offline-run-*"):  # this attempt sends those records again, or W&B has them
            shutil.rmtree(earlier)
        if self._run is None:
            self._run = self._init(wandb, info, settings, "offline")
            _log_hint(level, reason, Path(self._run.settings.sync_dir))
        else:
            with contextlib.suppress(OSError):  # reports link to it
                replace_file(folder / "url", f"{self._run.url}\n".encode())
        SESSION.open_runs += 1
        self._step = self._first - 1
        self._run.define_metric("update", hidden=True)
        for section in ("train/*", "eval/*"):
            self._run.define_metric(section, step_metric="update")
        for score in ("eval/score", "eval/return_mean"):
            self._run.define_metric(score, step_metric="update", summary="max,last")

    def _init(self, wandb: ModuleType, info: RunInfo, settings: Any, mode: str) -> Any:
        return wandb.init(
            project=self._project,
            entity=self._entity,
            id=info.id,
            name=info.name,
            group=info.group,
            job_type=info.job_type,
            tags=[tag[:64] for tag in info.tags if tag],
            config=info.config,
            dir=str(info.directory),
            mode=mode,
            resume="allow",
            reinit="create_new",
            settings=settings,
        )

    def _write(self, record: Record) -> None:
        """W&B's steps must increase: a late evaluation takes the next free step and keeps its `update`."""
        update = self._last = record["update"]
        if update < self._first:
            return
        if update != self._update:
            self._step = max(update, self._step + 1)
            self._update = update
        self._run.log({**scalars(record), "update": update}, step=self._step)

    def _close(self, exit_code: int) -> None:
        run, self._run = self._run, None
        SESSION.open_runs -= 1
        failures: list[Exception] = []

        def finish() -> None:
            try:
                run.finish(exit_code=exit_code)
            except Exception as error:
                failures.append(error)

        closing = threading.Thread(target=finish, name="wandb-finish", daemon=True)
        started = time.monotonic()
        closing.start()
        closing.join(timeout=1 if SESSION.upload_stalled else FINISH_SECONDS + 2)
        if failures:
            raise failures[0]
        if closing.is_alive() or time.monotonic() - started >= FINISH_SECONDS:
            SESSION.upload_stalled = True
            log.warning(
                "W&B's upload did not end in %d s: finish it with `wandb sync --include-online %s`",
                FINISH_SECONDS,
                _shown(Path(run.settings.sync_dir)),
            )

    def _give_up(self, error: Exception) -> None:
        if self._run is not None:
            self._run = None
            SESSION.open_runs -= 1
        log.warning(
            "W&B is not tracked any further (%s); training goes on, metrics.jsonl is the record",
            one_line(error),
        )


def _log_hint(level: int, reason: str, folder: Path) -> None:
    if SESSION.hint_logged:
        return
    SESSION.hint_logged = True
    path = _shown(folder)
    log.log(
        level,
        "W&B %s: recording offline; look at it with `wandb beta leet %s`, upload it with `wandb sync %s` "
        "(all runs of a sweep at once: docs/sweeps.md)",
        reason,
        path,
        path,
    )


def _shown(folder: Path) -> str:
    """The folder as a user would type it: relative if it is within the current one."""
    with contextlib.suppress(ValueError):
        folder = folder.relative_to(Path.cwd())
    return shlex.quote(str(folder))
