"""TensorBoard: a run mirrored to event files."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from typing import Any, BinaryIO

from iql.runs.metrics_file import Record, read_records
from iql.tracking.tracker import Artifacts, RunInfo, one_line, scalars

log = logging.getLogger(__name__)


class TensorBoardTracker:
    """Writes event files to `tensorboard/` in the run's directory (see `Tracker` for what it guarantees).

    Records are written by TensorBoard's record writer on the calling thread (65 µs each): its queueing writer prints
    a traceback if the disk is full.
    """

    def __init__(self) -> None:
        self._file: BinaryIO | None = None
        self._writer: Any = None
        self._update = 0  # of the last record written

    def start(self, info: RunInfo) -> None:
        """Write the folder again from the start; the records of earlier attempts come from `info.metrics`."""
        try:
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError as error:
            log.warning("TensorBoard is not tracked (%s): pip install tensorboard; training goes on", one_line(error))
            return
        try:
            folder = info.directory / "tensorboard"
            folder.mkdir(parents=True, exist_ok=True)
            for earlier in folder.glob("events.out.tfevents.*"):
                earlier.unlink()
            name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.0"
            self._file = (folder / name).open("wb")
            self._writer = RecordWriter(self._file)
            header = Event(wall_time=time.time(), file_version="brain.Event:2")
            self._writer.write(header.SerializeToString())
            for record in read_records(info.metrics) if info.resumed else []:
                self._write(record)
            self._file.flush()
        except Exception as error:
            self._give_up(error)

    def log(self, record: Record) -> None:
        """Write a record and flush the file."""
        if self._file is None:
            return
        try:
            self._write(record)
            self._file.flush()
        except Exception as error:
            self._give_up(error)

    def attach(self, artifacts: Artifacts) -> None:
        """Add the pictures."""
        if self._file is None:
            return
        try:
            from PIL import Image
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.compat.proto.summary_pb2 import Summary

            for name, path in artifacts.pictures.items():
                with Image.open(path) as picture:
                    width, height = picture.size
                image = Summary.Image(encoded_image_string=path.read_bytes(), colorspace=4, width=width, height=height)
                summary = Summary(value=[Summary.Value(tag=name, image=image)])
                event = Event(wall_time=time.time(), step=self._update, summary=summary)
                self._writer.write(event.SerializeToString())
            self._file.flush()
        except Exception as error:
            self._give_up(error)

    def finish(self, summary: Record | None, exit_code: int = 0) -> None:
        """Close the file. Event files have no place for the summary, which is in summary.json."""
        if self._file is None:
            return
        try:
            self._file.close()
            self._file = None
        except Exception as error:
            self._give_up(error)

    def _write(self, record: Record) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars(record).items()]
        event = Event(wall_time=time.time(), step=record["update"], summary=Summary(value=values))
        self._writer.write(event.SerializeToString())
        self._update = record["update"]

    def _give_up(self, error: Exception) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # writing the buffer fails once more
                file.close()
        log.warning("TensorBoard is not tracked any further (%s); training goes on", one_line(error))
