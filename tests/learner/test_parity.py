"""The learner against the numbers that the original implementations produced."""

from __future__ import annotations

import sys
from pathlib import Path

import commands
import numpy as np
import pytest
import torch
from conftest import native_library

from iql.commands.parity import replay
from iql.learner.golden_trace import GoldenTrace

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
TRACES = sorted(path for path in GOLDEN.glob("*.npz") if path.stem != "best_trajectories")


def parity(*arguments: object) -> commands.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "parity.py"), *map(str, arguments)]
    return commands.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("trace", TRACES, ids=lambda path: path.stem)
def test_every_array_of_the_trace_is_reproduced(trace):
    result = parity(trace)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"after_20/{'policy' if trace.stem == 'bc' else 'q_target'}" in result.stdout
    assert "eval/mean_actions" in result.stdout


@pytest.mark.parametrize("path", ["fused", "fused lanes", "native", "lanes", "graphs"])
@pytest.mark.parametrize(
    "trace", [path for path in TRACES if "ql" in path.stem and "ddpgbc" not in path.stem], ids=lambda path: path.stem
)
def test_the_written_out_paths_reproduce_it_too(trace, path):
    if path in ("native", "lanes"):
        native_library()  # or skip
    before = torch.get_num_threads()
    errors = replay(GoldenTrace.read(trace), path=path)
    torch.set_num_threads(before)
    assert max(errors.values()) < 3e-5


@pytest.mark.parametrize("path", ["native", "lanes"])
@pytest.mark.parametrize("trace", ["awac", "bc", "rebrac", "td3_bc"])
def test_perceptrons_in_c_under_autograd_reproduce_it_too(trace, path):
    native_library()  # or skip
    before = torch.get_num_threads()
    errors = replay(GoldenTrace.read(GOLDEN / f"{trace}.npz"), path=path)
    torch.set_num_threads(before)
    assert max(errors.values()) < 3e-5


def test_there_are_traces_of_every_implementation():
    assert [trace.stem for trace in TRACES] == [
        "awac",
        "bc",
        "eql_antmaze",
        "eql_locomotion",
        "fql_iql_awr",
        "fql_iql_ddpgbc",
        "gwthomas_deterministic",
        "gwthomas_gaussian",
        "official_antmaze",
        "official_locomotion",
        "rebrac",
        "sql_antmaze",
        "sql_locomotion",
        "td3_bc",
        "xql_action_noise",
        "xql_antmaze",
        "xql_locomotion",
        "xql_random_actions",
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        "algorithm.tau=0.71",
        "algorithm.beta=3.1",
        "algorithm=iql_gwthomas",
        "algorithm.policy_schedule=constant",
    ],
)
def test_another_setting_or_variant_is_told_apart(wrong):
    result = parity(ROOT / "tests" / "golden" / "official_locomotion.npz", wrong)
    assert result.returncode == 1
    assert "DIFFERENT" in result.stdout


@pytest.mark.parametrize(
    "wrong",
    [
        "network.activation=relu",
        "network.value.layer_norm=before",
        "network.policy.std=0.9",
        "network.policy.mean=tanh",
        "algorithm.beta=9.9",
        "algorithm=iql",
    ],
)
def test_other_networks_and_orders_than_fqls_are_told_apart(wrong):
    trace = GoldenTrace.read(GOLDEN / "fql_iql_awr.npz")
    if wrong == "algorithm=iql":  # with V, Q's target and the advantage as there, but the target of Q itself
        trace.overrides = lambda: [  # type: ignore[method-assign]
            *(each for each in GoldenTrace.overrides(trace) if not each.startswith("algorithm")),
            *(wrong, "algorithm.tau=0.9", "algorithm.beta=10", "algorithm.fresh_value=false"),
            *("algorithm.policy_schedule=constant", "algorithm.policy_mean=linear"),
        ]
        errors = replay(trace)
    else:
        errors = replay(trace, [wrong])
    assert max(errors.values()) > 1e-3


def test_one_wrong_weight_is_found_and_named(tmp_path):
    with np.load(ROOT / "tests" / "golden" / "official_antmaze.npz") as file:
        trace = dict(file)
    trace["after_20/q2/1/kernel"][3, 4] *= 1.01
    np.savez(tmp_path / "wrong.npz", **trace)
    result = parity(tmp_path / "wrong.npz")
    assert result.returncode == 1
    assert "ABOVE" in result.stdout
    assert "after_20/q/kernels.1" in result.stdout


def test_other_sizes_and_settings_from_options(tmp_path):
    """A trace of three layers, without meta: made from zero updates, so that its end is its beginning."""
    random = np.random.default_rng(0)
    trace = {}
    for network, fan_in, fan_out in [("v", 3, 1), ("q1", 5, 1), ("q2", 5, 1), ("policy", 3, 2)]:
        for layer, (rows, columns) in enumerate([(fan_in, 8), (8, 7), (7, 6), (6, fan_out)]):
            trace[f"init/{network}/{layer}/kernel"] = random.normal(size=(rows, columns)).astype(np.float32)
            trace[f"init/{network}/{layer}/bias"] = random.normal(size=columns).astype(np.float32)
    for key in [key for key in trace if "/q" in key]:
        trace[key.replace("/q1/", "/q1_target/").replace("/q2/", "/q2_target/")] = trace[key]
    shapes = {"observations": (3,), "actions": (2,), "rewards": (), "masks": (), "next_observations": (3,)}
    for field, shape in shapes.items():
        trace[f"batch/{field}"] = random.normal(size=(1, 16, *shape)).astype(np.float32)
    trace |= {key.replace("init/", "after_1/"): value for key, value in trace.items() if key.startswith("init/")}
    np.savez(tmp_path / "sizes.npz", **trace)
    options = ["algorithm=iql_gwthomas", "algorithm.tau=0.7", "algorithm.discount=0.9", "optimizer.lr=1e-12"]
    result = parity(tmp_path / "sizes.npz", *options)
    assert result.returncode == 0, result.stdout + result.stderr
    result = parity(tmp_path / "sizes.npz", "algorithm.tua=0.7")
    assert result.returncode == 1
    assert "algorithm.tau" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_file_that_is_no_trace_is_one_line(tmp_path):
    (tmp_path / "no.npz").write_bytes(b"nothing")
    result = parity(tmp_path / "no.npz")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
