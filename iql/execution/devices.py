"""The device that a job trains on, and what it can do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psutil
import torch

from iql.errors import UserError
from iql.system import control_groups
from iql.system.cpu_cores import usable


def choose(device: str) -> torch.device:
    """The device by name, auto being cuda where there is one.

    A CUDA device becomes the current one, to which streams, graphs and what libraries keep belong. Raises UserError for
    a device that this machine lacks.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda"):
        count = torch.cuda.device_count()
        index = int(device.partition(":")[2] or 0)
        if index >= count:
            raise UserError(f"device={device}: this machine has {count} CUDA devices; use device=cpu or auto")
        torch.cuda.set_device(index)
    return torch.device(device)


def cores(threads: int | None) -> int:
    """CPU threads to train with: `threads`, or one for each core that this process may use."""
    return threads or usable()


def wait(device: torch.device) -> None:
    """Return when the device has done what it was given; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def set_precision(precision: str, device: torch.device) -> None:
    """Settle what products are taken in. Raises UserError for a precision that the device lacks."""
    torch.backends.cuda.matmul.fp32_precision = "ieee" if precision == "ieee" else "tf32"
    if precision == "bf16" and not has_bf16(device):
        need = "compute capability 8.0 or more" if device.type == "cuda" else "AVX512_BF16 or AMX"
        raise UserError(f"precision=bf16: {device} has no bfloat16 products ({need}); use precision=float32")


def has_bf16(device: torch.device) -> bool:
    """Whether the device takes products of bfloat16 itself, and not by way of float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # torch has no public function for it; tests/execution/test_devices.py calls both, and would notice their removal.
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def check_memory(member: int, shared: int, members: int, device: torch.device) -> None:
    """Raise UserError, saying how many would fit, if `members` of `member` bytes beside `shared` do not."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _free_memory()
    if shared + members * member <= free:
        return
    fitting = max(0, int((free - shared) // member))
    advice = "split the pack" if fitting else "use a smaller batch_size or network, or a larger machine"
    raise UserError(
        f"a pack of {members} needs about {(shared + members * member) / 2**30:.1f} GiB on {device}, where "
        f"{free / 2**30:.1f} GiB are free: {fitting} would fit; {advice}"
    )


@contextlib.contextmanager
def memory_may_run_out(device: torch.device) -> Iterator[None]:
    """Raises UserError where a GPU's memory runs out although the estimate fitted: others use it, too."""
    try:
        yield
    except torch.OutOfMemoryError:
        free, total = (each / 2**30 for each in torch.cuda.mem_get_info(device))
        raise UserError(
            f"the memory of {device} ran out, where {free:.1f} of {total:.1f} GiB are free now; split the pack, use a "
            "smaller batch_size or network, or end what else runs there"
        ) from None


def _free_memory() -> float:
    """Bytes of main memory that this process may still take, a container's or a job's limit included."""
    return min(psutil.virtual_memory().available, control_groups.free_memory())
