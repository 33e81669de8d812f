"""A server of data files for tests of downloads, whose faults the test chooses."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path


@dataclass
class Site:
    """The server's file and behaviour, which may change between requests.

    Without `ranges` it ignores Range; without `conditions` it ignores If-Range. `sends` bytes of a
    response are sent before it is cut, or, where it stalls, before it waits for `go`.
    """

    content: bytes
    tag: str | None = '"one"'
    status: int = 200
    kind: str = "application/octet-stream"
    ranges: bool = True
    conditions: bool = True
    length: bool = True
    sends: int | None = None
    stalls: bool = False
    go: threading.Event = field(default_factory=threading.Event)
    stall_seconds: float = 20
    asked: list[str | None] = field(default_factory=list)  # the Range of each request
    sent_from: list[int] = field(default_factory=list)  # the first byte of each answer's body
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site, wanted = self.site, self.headers.get("Range")
        site.asked.append(wanted)
        start = 0
        if wanted and site.ranges and (not site.conditions or self.headers.get("If-Range") == site.tag):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if start >= len(site.content):
            self.send_error(416)
            return
        self.send_response(206 if start else site.status)
        self.send_header("Content-Type", site.kind)
        if site.length:
            self.send_header("Content-Length", str(len(site.content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(site.content) - 1}/{len(site.content)}")
        if site.tag:
            self.send_header("ETag", site.tag)
        self.end_headers()
        site.sent_from.append(start)
        body = site.content[start:]
        self.wfile.write(body[: site.sends])
        if site.sends is not None and site.stalls:
            self.wfile.flush()
            site.go.wait(site.stall_seconds)
            self.wfile.write(body[site.sends :])

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the client was killed, which is the point
            super().handle()

    def log_message(self, *_: object) -> None:
        pass


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def wait_until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited for 20 s"
        time.sleep(0.005)
