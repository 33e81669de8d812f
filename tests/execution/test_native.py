"""The update in C: held to torch's operations at odd shapes, and what happens without a compiler."""

from __future__ import annotations

import logging
import os
import platform
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import commands
import numpy as np
import pytest
import torch
from conftest import native_library as library_or_skip
from conftest import random_transitions
from test_paths import BATCH, make, train

from iql.errors import UserError
from iql.execution import native_library
from iql.execution.mlp_passes import Buffers, Part
from iql.execution.native_iql import NativePart
from iql.execution.paths import choose
from iql.learner.optimizers import PackAdam
from iql.learner.parameters import FlatParameters
from iql.networks.critics import Value

ADAM = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
CPU = torch.device("cpu")


# The paths through native.c that compiler flags choose: for this machine, for one without AVX-512, for any x86-64.
BUILDS = ("", "-mno-avx512f", "-march=x86-64") if platform.machine() == "x86_64" else ("",)


@pytest.fixture(scope="module", params=BUILDS, ids=lambda flags: flags or "this CPU")
def library(request, tmp_path_factory):
    """native.c compiled with these flags."""
    library_or_skip()  # skips without a compiler
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CC", f"{os.environ.get('CC') or 'cc'} {request.param}")
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("build")))
        return native_library.load.__wrapped__()


def parts(
    library: native_library.Library,
    widths: list[int],
    low: torch.dtype | None = None,
    layer_norm: str | None = None,
    activation: str = "relu",
) -> tuple[Part, Part]:
    """The same network, in torch's operations and in C."""
    found: list[Part] = []
    for kind in (Part, partial(NativePart, library=library)):
        flat = FlatParameters(Value(widths[0], [3], widths[1:-1], "orthogonal", layer_norm, activation))
        flat.rows.add_(torch.linspace(-0.1, 0.1, flat.rows.numel()))  # biases, too
        found.append(kind(flat, range(1), PackAdam(flat, [1e-3], ADAM), Buffers(CPU), low))
    return found[0], found[1]


@pytest.mark.parametrize("layer_norm", [None, "before", "after"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("low", [None, torch.bfloat16])
@pytest.mark.parametrize(
    ("widths", "batch"),
    [([1, 1, 1, 1], 1), ([3, 5, 7, 1], 9), ([11, 33, 31, 1], 17), ([6, 64, 95, 32, 1], 8), ([40, 256, 1], 64)],
)
def test_passes_and_steps_at_odd_shapes(library, widths, batch, low, activation, layer_norm):
    if low and not library.has_bf16():
        low = None  # a machine without: the shapes hold for float32 all the same
    if layer_norm and max(widths) == 1:
        widths = [1, 2, 3, 1]  # a single number normalised is always 0, and its gradient is nothing but rounding
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(1, batch, widths[0], generator=generator)
    gradient = torch.randn(1, batch, 1, generator=generator)
    masks = [(torch.rand(1, batch, width, generator=generator) < 0.8) / 0.8 for width in widths[1:-1]]
    exact = {"rtol": 1e-5, "atol": 1e-5 if layer_norm else 2e-6 if activation == "gelu" else 1e-6}
    close = exact if low is None else {"rtol": 0.05, "atol": 0.05}
    theirs, ours = parts(library, widths, low, layer_norm, activation)
    for _ in range(3):
        results = []
        for part in (theirs, ours):
            each = part.pass_of(x)
            output = each.forward(masks).clone()
            each.backward(gradient, dropout=0.2)
            results.append((output, part.gradients.clone()))
            part.step(0.5)
        torch.testing.assert_close(results[1], results[0], **close)
        torch.testing.assert_close(ours.rows, theirs.rows, rtol=close["rtol"], atol=max(close["atol"], 1e-5))
    ours.follow(theirs, 0.25)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("layer_norm", [None, "before", "after"])
def test_the_gradient_of_the_first_rows_of_a_larger_pass(library, layer_norm, activation):
    generator = torch.Generator().manual_seed(5)
    x, gradient = torch.randn(1, 34, 11, generator=generator), torch.randn(1, 17, 1, generator=generator)
    theirs, ours = parts(library, [11, 33, 31, 1], None, layer_norm, activation)
    results = []
    for part in (theirs, ours):
        both = part.pass_of(x)
        first = part.pass_of(x[:, :17], larger=both)
        output = both.forward().clone()
        first.backward(gradient)
        results.append((output, part.gradients.clone()))
    torch.testing.assert_close(results[1], results[0], rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("layer_norm", ["before", "after"])
def test_nan_passes_through_layer_normalisation(library, layer_norm, activation):
    _, part = parts(library, [3, 40, 33, 1], None, layer_norm, activation)
    x = torch.ones(1, 4, 3)
    x[0, 2, 1] = float("nan")
    each = part.pass_of(x)
    output = each.forward()
    assert output[0, [0, 1, 3]].isfinite().all() and output[0, 2].isnan().all()
    each.backward(torch.ones(1, 4, 1))
    assert not part.gradients.isfinite().all()


def test_following_is_a_step_towards_the_other(library):
    target, other = parts(library, [3, 40, 1])[1], parts(library, [3, 40, 1])[1]
    other.rows.mul_(2)
    expected = torch.lerp(target.rows, other.rows, 0.25)
    target.follow(other, 0.25)
    torch.testing.assert_close(target.rows, expected)


def test_gelu_and_its_slope_at_every_size(library):
    """One hidden unit: the network's output is GELU of its input, the gradient of its bias the slope."""
    _, part = parts(library, [1, 1, 1], activation="gelu")
    part.rows.zero_()
    for kernel in part.kernels:
        kernel.fill_(1.0)
    for size in (*torch.linspace(-14, 14, 281).tolist(), 1e6, -1e6):
        each = part.pass_of(torch.full((1, 1, 1), size))
        exact = torch.tensor(size, dtype=torch.float64, requires_grad=True)
        expected = torch.nn.functional.gelu(exact, approximate="tanh")
        (slope,) = torch.autograd.grad(expected, exact)
        assert float(each.forward()) == pytest.approx(float(expected.detach()), rel=3e-7, abs=3e-7)
        each.backward(torch.ones(1, 1, 1))
        assert float(part.bias_gradients[0]) == pytest.approx(float(slope), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_pass_through_the_activation_and_its_gradient(library, bad, activation):
    _, part = parts(library, [3, 40, 33, 1], activation=activation)
    x = torch.ones(1, 4, 3)
    x[0, 2, 1] = bad
    each = part.pass_of(x)
    output = each.forward()
    assert output[0, [0, 1, 3]].isfinite().all() and not output[0, 2].isfinite().all()
    each.backward(torch.ones(1, 4, 1))
    assert not part.gradients.isfinite().all()


@pytest.fixture
def c_compiler():
    """Skips a test where there is none."""
    library_or_skip()


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """No library is loaded or kept yet; the folder where it will be."""
    monkeypatch.setattr(native_library, "load", native_library.load.__wrapped__)
    monkeypatch.setattr("iql.execution.paths.load", native_library.load)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "iql" / "native"


@pytest.mark.usefixtures("c_compiler")
def test_it_is_compiled_once_for_a_compiler_and_kept(fresh, monkeypatch, tmp_path):
    compiler, asked = tmp_path / "compiler", tmp_path / "asked"
    compiler.write_text(f'#!/bin/sh\necho >> {asked}\nexec cc "$@"\n')
    compiler.chmod(0o700)
    for flag in ("", "", " -O1"):
        monkeypatch.setenv("CC", f"{compiler}{flag}")
        native_library.load()
    assert len(asked.read_text()) == 2
    assert [path.suffix for path in fresh.iterdir()] == [".so", ".so"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file to somebody else")
@pytest.mark.usefixtures("c_compiler")
def test_a_library_of_somebody_else_is_not_loaded(fresh):
    native_library.load()
    (kept,) = fresh.iterdir()
    os.chown(kept, 12345, -1)
    native_library.load()
    assert kept.stat().st_uid == os.geteuid()  # made anew


@pytest.mark.usefixtures("c_compiler")
def test_a_damaged_library_is_made_anew(fresh):
    load = [
        sys.executable,
        "-c",
        "from iql.execution import native_library; native_library.load()",
    ]  # a process knows what it has loaded
    commands.run(load, check=True)
    (kept,) = fresh.iterdir()
    whole = kept.stat().st_size
    for damaged in (kept.read_bytes()[: whole // 2], b"\0" * 100):
        kept.write_bytes(damaged)
        commands.run(load, check=True)
        assert kept.stat().st_size == whole


@pytest.mark.usefixtures("c_compiler")
def test_a_folder_that_cannot_be_written_to_is_no_obstacle(fresh):
    fresh.parent.write_text("a file")
    native_library.load()


@pytest.mark.usefixtures("c_compiler", "fresh", "homeless")
def test_no_home_directory_is_no_obstacle():
    native_library.load()


@pytest.mark.slow
@pytest.mark.usefixtures("c_compiler")
def test_several_processes_may_compile_at_once(fresh, tmp_path):
    command = [sys.executable, "-c", "from iql.execution import native_library; native_library.load()"]
    processes = [commands.start(command) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert len(list(fresh.iterdir())) == 1


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        ("no-such-compiler", "no C compiler (no-such-compiler) on this machine"),
        ("false", "the C compiler false refuses native.c: exit status 1"),
        ("true", "what the C compiler made"),
    ],
)
def test_without_a_compiler_it_trains_all_the_same_and_says_why(fresh, monkeypatch, caplog, compiler, reason):
    monkeypatch.setenv("CC", compiler)
    with caplog.at_level(logging.WARNING):
        trained = make(path="auto")
    assert trained.execution.name == "fused"
    (line,) = caplog.messages
    assert line.startswith(f"code_path=fused, which is slower than native: {reason}")
    train(trained, random_transitions(5, 2), 3)
    with pytest.raises(UserError, match="code_path=native: .*; use code_path=auto, or set CC"):
        choose(make(path="plain").learner, BATCH, "native", 1)


@pytest.mark.usefixtures("c_compiler")
def test_auto_is_native_until_there_are_threads_for_more_than_that():
    for members, threads, path in ((1, 1, "native"), (1, 3, "native"), (1, 4, "fused"), (3, 5, "native")):
        execution = choose(make(range(members)).learner, BATCH, "auto", threads)
        assert execution.name == path, (members, threads)


@pytest.mark.parametrize("flags", BUILDS)
@pytest.mark.usefixtures("c_compiler")
def test_flags_in_cc_choose_the_processor_that_it_is_compiled_for(monkeypatch, flags):
    monkeypatch.setenv("CC", f"{os.environ.get('CC') or 'cc'} {flags}")
    command = [*native_library._compiler(), *native_library.FLAGS, "-dM", "-E", "-x", "c", os.devnull]
    defined = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert not (flags and "__AVX512F__" in defined)
    assert not (flags == "-march=x86-64" and "__AVX__" in defined)


@pytest.mark.usefixtures("c_compiler")
def test_without_bfloat16_products_native_says_so_and_auto_takes_torchs_operations(fresh, monkeypatch, caplog):
    monkeypatch.setenv("CC", f"{os.environ.get('CC') or 'cc'} {BUILDS[-1]}")
    with pytest.raises(UserError, match="code_path=native: .* lacks AVX512_BF16.*; use code_path=auto, or set CC"):
        make(path="native", precision="bf16")
    with caplog.at_level(logging.WARNING):
        assert make(path="auto", precision="bf16").execution.name == "fused"
    assert "code_path=fused, which is slower than native: this CPU or its C compiler lacks AVX512_BF16" in caplog.text


def run_passes(folder: Path, compiler: str, *flags: str, emulator: tuple[str, ...] = ()) -> list[tuple[str, float]]:
    """What native_passes.c prints when it is compiled so."""
    program, source = folder / Path(compiler).name, Path(__file__).with_name("native_passes.c")
    command = [
        compiler,
        *native_library.FLAGS,
        *flags,
        f"-I{native_library.SOURCE.parent}",
        "-o",
        str(program),
        str(source),
        "-lm",
    ]
    command = [word for word in command if word not in ("-shared", "-fPIC")]
    subprocess.run([*command, "-static"], check=True, capture_output=True, timeout=120)
    lines = subprocess.run([*emulator, str(program)], check=True, capture_output=True, text=True, timeout=120).stdout
    return [(name, float(number)) for name, _, number in (line.rpartition(" ") for line in lines.splitlines())]


@pytest.mark.skipif(
    shutil.which("aarch64-linux-gnu-gcc") is None or shutil.which("qemu-aarch64") is None,
    reason="needs gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user",
)
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler for this machine, too")
def test_on_arm64_its_passes_give_the_same_numbers(tmp_path):
    here = run_passes(tmp_path, "cc")
    there = run_passes(tmp_path, "aarch64-linux-gnu-gcc", emulator=("qemu-aarch64",))
    assert [name for name, _ in there] == [name for name, _ in here] and len(here) > 10000
    np.testing.assert_allclose([n for _, n in there], [n for _, n in here], rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(platform.machine() != "x86_64" or shutil.which("cc") is None, reason="needs a compiler for x86-64")
def test_it_compiles_without_a_warning_for_a_processor_with_all_of_avx512(tmp_path):
    flags = [*native_library.FLAGS, "-march=x86-64-v3", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512bf16"]
    command = ["cc", *flags, "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-sign-compare"]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "made.so"), str(native_library.SOURCE)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
