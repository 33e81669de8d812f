"""What a machine lacks is said before training starts."""

from __future__ import annotations

import psutil
import pytest
import torch
from conftest import Trainer

from iql.errors import UserError
from iql.execution import devices

CPU = torch.device("cpu")


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(UserError, match=r"device=cuda:7: this machine has \d CUDA devices; use device=cpu or auto"):
        devices.choose("cuda:7")
    assert devices.choose("cpu") == CPU


def test_bfloat16_is_refused_where_the_processor_has_none(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    with pytest.raises(UserError, match=r"precision=bf16: cpu has no bfloat16 products .* use precision=float32"):
        devices.set_precision("bf16", CPU)
    devices.set_precision("float32", CPU)


def test_products_on_cuda_are_tf32_unless_ieee_is_asked_for():
    for precision, expected in (("ieee", "ieee"), ("float32", "tf32")):
        devices.set_precision(precision, CPU)
        assert torch.backends.cuda.matmul.fp32_precision == expected


def test_a_pack_that_does_not_fit_is_refused_with_the_number_that_would(monkeypatch):
    monkeypatch.setattr(devices, "_free_memory", lambda: 1000)
    devices.check_memory(member=100, shared=400, members=6, device=CPU)
    with pytest.raises(UserError, match="a pack of 7 needs about .* 6 would fit; split the pack"):
        devices.check_memory(member=100, shared=400, members=7, device=CPU)
    with pytest.raises(UserError, match="0 would fit; use a smaller batch_size or network"):
        devices.check_memory(member=100, shared=1400, members=1, device=CPU)


def test_free_memory_is_no_more_than_the_machine_has():
    assert 0 < devices._free_memory() <= psutil.virtual_memory().total


def test_a_pack_too_large_is_one_line_before_anything_is_written(train: Trainer):
    result = train("network.hidden_dims=[30000,30000]", "batch_size=4096", "seed=[0,1,2]")
    assert result.returncode == 1
    *of_the_data, line = result.stderr.splitlines()
    assert line.startswith("train.py: a pack of 3 needs about ")
    assert "would fit" in line
    assert not any("Traceback" in line for line in of_the_data)
    assert not train.runs.exists()


def test_a_gpus_memory_that_runs_out_while_training_is_one_line(train: Trainer):
    """Other programs on the GPU take what was free when the estimate was made."""
    patch = """
import torch
from iql.training.loop import Training
def run(self):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
Training.run = run
torch.cuda.mem_get_info = lambda device: (2**30, 8 * 2**30)
"""
    result = train(patch=patch)
    assert result.returncode == 1
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("train.py: "))
    assert line.startswith("train.py: the memory of cpu ran out, where 1.0 of 8.0 GiB are free now; split the pack")
    assert "Traceback" not in result.stderr


def test_a_slurm_job_takes_no_more_cores_than_it_was_given(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    assert devices.cores(None) == 64
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")  # a cluster that pins nobody
    assert devices.cores(None) == 4
    assert devices.cores(7) == 7
