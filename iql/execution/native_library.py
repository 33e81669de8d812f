"""The library in C, native.c, compiled once for this machine's CPU."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from ctypes import POINTER, c_double, c_int64, c_void_p
from functools import cache
from pathlib import Path

from iql.system.atomic_files import replace_file

SOURCE = Path(__file__).with_name("native.c")
FLAGS = (
    # Sums may be taken in any order; what NaN and infinity do stays.
    *("-O3", "-fno-math-errno", "-fno-trapping-math", "-fassociative-math", "-fno-signed-zeros"),
    *("-shared", "-fPIC", "-pthread"),
)
WIDTH = 32
"""At least the width of a tile in native.c."""

VALUE_GRADIENTS = ("expectile_gradient", "sparse_gradient", "exponential_gradient", "gumbel_gradient")
"""The functions for V's losses, which all take the same."""

Library = ctypes.CDLL


class Unavailable(Exception):
    """There is no compiled library here; the message says why."""


class PassStruct(ctypes.Structure):
    """struct pass of native.c."""

    _fields_ = (
        *((name, c_int64) for name in ("depth", "batch", "bf16", "norm", "gelu")),
        *((name, c_void_p) for name in ("widths", "inputs", "kernels", "biases", "gradients")),
        *((name, c_void_p) for name in ("kernel_gradients", "bias_gradients", "norm_scales", "norm_biases")),
        *((name, c_void_p) for name in ("norm_scale_gradients", "norm_bias_gradients", "products", "statistics")),
        *((name, c_void_p) for name in ("output", "scratch")),
    )


class CallStruct(ctypes.Structure):
    """struct call of native.c."""

    _fields_ = (
        *(("pass", POINTER(PassStruct)), ("masks", c_void_p), ("gradient", c_void_p), ("scale", c_double)),
        *(("kernels", c_int64), ("input_gradient", c_void_p)),
    )


def compute(library: Library, *calls: CallStruct) -> None:
    """The calls, one after the other, on this thread."""
    library.compute((CallStruct * len(calls))(*calls), len(calls))


@contextlib.contextmanager
def meanwhile(library: Library, *calls: CallStruct) -> Iterator[None]:
    """The library's own thread computes the calls, one after the other, while what is within runs on this thread."""
    given = (CallStruct * len(calls))(*calls)
    started = library.start(given, len(calls))
    try:
        yield
    finally:
        library.finish(started)


@cache
def load() -> Library:
    """The library, compiled (about a second) if ~/.cache/iql has none for this source and CPU.

    Raises Unavailable without a compiler (CC, else cc), or where it refuses.
    """
    made_of = [SOURCE.read_bytes(), *(word.encode() for word in (*_compiler(), *FLAGS)), _cpu()]
    name = hashlib.sha256(b"\0".join(made_of)).hexdigest()[:16]
    folder = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    kept = None if folder.startswith("~") else Path(folder, "iql", "native", f"{name}.so")  # ~ stays: no home
    if kept is not None and _whole(kept):
        return _declared(ctypes.CDLL(str(kept)))
    with tempfile.TemporaryDirectory() as folder:
        library = made = Path(folder, f"{name}.so")
        _compile(made)
        try:
            whole = made.read_bytes()
        except OSError as error:
            raise Unavailable(f"what the C compiler made cannot be read: {error}") from error
        if kept is not None:
            with contextlib.suppress(OSError):  # a home that cannot be written to: it is compiled again next time
                kept.parent.mkdir(parents=True, exist_ok=True)
                replace_file(kept, whole, hashlib.sha256(whole).digest())
                library = kept
        try:
            return _declared(ctypes.CDLL(str(library)))
        except OSError as error:
            raise Unavailable(f"what the C compiler made cannot be loaded: {error}") from error


def _whole(kept: Path) -> bool:
    """Whether a library is there that this user made (or root), and ends in its own digest.

    A damaged one would end the process that loads it; one of somebody else's could do anything.
    """
    try:
        content, owner = kept.read_bytes(), kept.stat().st_uid
    except OSError:
        return False
    return owner in (0, os.geteuid()) and hashlib.sha256(content[:-32]).digest() == content[-32:]


def _compiler() -> list[str]:
    """CC, else cc, told to compile for this machine's CPU unless CC names another (-march=, -mcpu=)."""
    words = shlex.split(os.environ.get("CC") or "cc")
    named = any(word.startswith(("-march=", "-mcpu=")) for word in words)
    return words if named else [*words, "-march=native"]


def _cpu() -> bytes:
    """What compiled code depends on: clusters share home directories between kinds of machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return f"{platform.system()} {platform.machine()} {flags}".encode()


def _compile(made: Path) -> None:
    compiler = _compiler()
    try:
        done = subprocess.run(
            [*compiler, *FLAGS, "-o", str(made), str(SOURCE), "-lm"], capture_output=True, text=True, timeout=120
        )
    except FileNotFoundError:
        raise Unavailable(f"no C compiler ({compiler[0]}) on this machine") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"the C compiler {compiler[0]} does not run: {error}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise Unavailable(f"the C compiler {compiler[0]} refuses {SOURCE.name}: {lines[0]}")


def _declared(library: Library) -> Library:
    pointers = {
        "compute": (POINTER(CallStruct), c_int64),
        "start": (POINTER(CallStruct), c_int64),
        "finish": (c_int64,),
        "adam": (c_int64, *[c_void_p] * 5, *[c_double] * 5),
        "follow": (c_int64, c_void_p, c_void_p, c_double),
        "smaller": (c_int64, *[c_void_p] * 3),
        **dict.fromkeys(VALUE_GRADIENTS, (c_int64, c_int64, c_void_p, c_void_p, c_double, c_double, c_void_p)),
        "weigh": (c_int64, *[c_void_p] * 2, c_int64, *[c_double] * 2, *[c_void_p] * 2),
        "q_target": (c_int64, *[c_void_p] * 3, c_double, c_void_p),
        "q_gradient": (c_int64, c_void_p, c_void_p, c_double, c_double, c_void_p),
        "policy_gradient": (
            *(c_int64, c_int64, *[c_void_p] * 3),
            *(c_int64, c_void_p, c_double, c_double, c_void_p, c_void_p),
        ),
    }
    for name, types in pointers.items():
        function = getattr(library, name)
        function.argtypes, function.restype = types, None
    library.start.restype = c_int64
    return library
