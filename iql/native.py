"""The update in C: native.c, compiled once for this machine's CPU.

It computes what fused.py and passes.py compute, to the last bits or so (tests/test_native.py), with less memory
traffic between products, and without Python's lock, so that threads do not wait for each other.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from ctypes import POINTER, c_double, c_float, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from iql.draws import Batch
from iql.fused import FusedUpdate
from iql.passes import Buffers, Flat, FlatAdam, Part, Pass
from iql.storage import replace_file

if TYPE_CHECKING:
    from iql.learner import IQL

SOURCE = Path(__file__).with_name("native.c")
FLAGS = (
    # Sums may be taken in any order; what NaN and infinity do stays.
    *("-O3", "-fno-math-errno", "-fno-trapping-math", "-fassociative-math", "-fno-signed-zeros"),
    *("-shared", "-fPIC"),
)
WIDTH = 32
"""At least the width of a tile in native.c."""

Library = ctypes.CDLL


class Unavailable(Exception):
    """There is no compiled library here; the message says why."""


class _Struct(ctypes.Structure):
    """struct pass of native.c."""

    _fields_ = (
        *((name, c_int64) for name in ("depth", "batch", "bf16")),
        *((name, c_void_p) for name in ("widths", "inputs", "kernels", "biases", "gradients")),
        *((name, c_void_p) for name in ("kernel_gradients", "bias_gradients", "output", "scratch")),
    )


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
        "forward": (POINTER(_Struct), c_void_p),
        "backward": (POINTER(_Struct), c_void_p, c_float),
        "adam": (c_int64, *[c_void_p] * 5, *[c_double] * 5),
        "follow": (c_int64, c_void_p, c_void_p, c_double),
        "value_gradient": (c_int64, *[c_void_p] * 3, c_double, *[c_void_p] * 2),
        "weigh": (c_int64, *[c_void_p] * 5, *[c_double] * 3, *[c_void_p] * 3),
        "q_gradient": (c_int64, c_void_p, c_void_p, c_double, c_void_p),
        "policy_gradient": (
            *(c_int64, c_int64, *[c_void_p] * 3),
            *(c_int64, c_void_p, c_double, c_double, c_void_p, c_void_p),
        ),
    }
    for name, types in pointers.items():
        function = getattr(library, name)
        function.argtypes, function.restype = types, None
    return library


class NativePart(Part):
    """One perceptron of one member, on a CPU."""

    def __init__(
        self,
        flat: Flat,
        rows: range,
        optimizers: Sequence[FlatAdam],
        buffers: Buffers,
        low: torch.dtype | None,
        library: Library,
    ):
        super().__init__(flat, rows, optimizers, buffers, None)
        self.library, self.bf16 = library, low is not None
        self._arguments_of_adam = [
            (settings, weights.numel(), [each.data_ptr() for each in (weights, gradient, first, second, step)])
            for settings, tensors in self.adam
            for weights, gradient, first, second, step in zip(*tensors[:4], tensors[5], strict=True)
        ]

    def pass_of(self, x: Tensor, larger: Pass | None = None) -> Pass:
        return NativePass(self, x, larger)

    def step(self, factor: float | Tensor = 1.0) -> None:
        for settings, size, pointers in self._arguments_of_adam:
            rate, betas = settings["lr"] * float(factor), settings["betas"]
            self.library.adam(size, *pointers, rate, *betas, settings["eps"], settings["weight_decay"])

    def follow(self, other: Part, polyak: float | Tensor) -> None:
        self.library.follow(self.rows.numel(), self.rows.data_ptr(), other.rows.data_ptr(), float(polyak))


class NativePass(Pass):
    """A pass in C; of `part`, a NativePart."""

    def __init__(self, part: NativePart, x: Tensor, larger: Pass | None = None):
        super().__init__(part, x, larger)
        self._library, batch = part.library, x.shape[1]
        widths = [x.shape[2], *(kernel.shape[2] for kernel in part.kernels)]
        wide, most = max(widths), max(batch, *widths)
        scratch = part.buffers.take("scratch", WIDTH * most + (wide + 6) * (batch + wide + 6))
        self._kept: list[Any] = [(c_int64 * len(widths))(*widths)]
        of_layers = (self.inputs, part.kernels, part.biases, self.gradients, part.kernel_gradients, part.bias_gradients)
        self._kept += [_pointers(tensors) for tensors in of_layers]
        addresses = [ctypes.addressof(each) for each in self._kept]
        self._struct = _Struct(
            len(part.kernels), batch, part.bf16, *addresses, self.output.data_ptr(), scratch.data_ptr()
        )

    def forward(self, masks: Sequence[Tensor] | None = None) -> Tensor:
        self._library.forward(self._struct, _pointers(masks) if masks is not None else None)
        return self.output

    def backward(self, gradient: Tensor, dropout: float | None = None) -> None:
        self._library.backward(self._struct, gradient.data_ptr(), 1 / (1 - dropout) if dropout else 1.0)


class NativeUpdate(FusedUpdate):
    """The update of one member on a CPU. What it gives out is not written to again: the other lane may be late."""

    def __init__(
        self,
        learner: IQL,
        flats: dict[str, Flat],
        members: range,
        batch_size: int,
        *,
        lanes: int,
        low: torch.dtype | None,
        library: Library,
    ):
        self._library = library
        super().__init__(learner, flats, members, batch_size, together=False, lanes=lanes, low=low)
        one = members.start
        self._settings = [float(each[one]) for each in (learner.tau, learner.beta, learner.advantage_cap)]
        self._discounted, self._scale = float(learner.discount[one]), float(learner.q_loss_scale)
        self._of_v = torch.empty(1, batch_size)
        self._of_q = [torch.empty(1, batch_size, 1) for _ in self.q]
        self._of_mean = torch.empty(self._policy.output.shape)

    def _part(
        self, flat: Flat, rows: range, optimizers: Sequence[FlatAdam], buffers: Buffers, low: torch.dtype | None
    ) -> Part:
        return NativePart(flat, rows, optimizers, buffers, low, self._library)

    def _value_gradient(self, both: Sequence[Tensor], v: Tensor) -> tuple[Tensor, Tensor]:
        target_q, inputs = torch.empty_like(self._of_v), [each.data_ptr() for each in (*both, v)]
        self._library.value_gradient(self._size, *inputs, self._settings[0], target_q.data_ptr(), self._of_v.data_ptr())
        return target_q, self._of_v

    def _weigh(self, target_q: Tensor, v: Tensor, next_v: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        advantage, weights, target = (torch.empty_like(target_q) for _ in range(3))
        inputs = [each.data_ptr() for each in (target_q, v, next_v, batch.rewards, batch.masks)]
        outputs = [each.data_ptr() for each in (advantage, weights, target)]
        self._library.weigh(self._size, *inputs, *self._settings[1:], self._discounted, *outputs)
        return advantage, weights, target

    def _policy_gradient(self, weights: Tensor, mean: Tensor, actions: Tensor) -> Tensor:
        policy, part = self._learner.policy, self._policy.part
        log_std, of_log_std = (part.others[0].data_ptr(), part.other_gradients[0].data_ptr()) if part.others else (0, 0)
        inputs = [each.data_ptr() for each in (weights, mean, actions)]
        ends = policy.log_std_range if part.others else (0.0, 0.0)
        gradient = self._of_mean
        self._library.policy_gradient(
            *(self._size, mean.shape[2], *inputs, bool(policy.squash), log_std, *ends, gradient.data_ptr(), of_log_std)
        )
        return gradient

    def _q_gradient(self, part: int, target: Tensor) -> Tensor:
        gradient, q = self._of_q[part], self.q[part].output
        self._library.q_gradient(self._size, q.data_ptr(), target.data_ptr(), self._scale, gradient.data_ptr())
        return gradient


def _pointers(tensors: Sequence[Tensor]) -> Any:
    return (c_void_p * len(tensors))(*[tensor.data_ptr() for tensor in tensors])
