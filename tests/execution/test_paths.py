"""Every way to carry updates out against autograd: alone, in packs, on threads, as on CUDA, in bfloat16, resumed."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import pytest
import torch
from conftest import native_library, random_transitions
from learners import ACTION_DIM, OBSERVATION_DIM, VARIED, OwnValue, largest_difference, make_learner, states, target

from iql.algorithms.iql import IQL
from iql.data.sampling import Batches
from iql.data.transitions import Transitions
from iql.errors import UserError
from iql.execution.eager import Eager
from iql.execution.graphs import AutogradUpdate, Graphs, NotCapturable
from iql.execution.iql_gradients import IQLGradients
from iql.execution.native_autograd import NativeAutograd
from iql.execution.paths import Execution, choose
from iql.execution.threads import MemberThreads
from iql.learner.learner import Learner
from iql.runs.footprint import member_bytes

BATCH = 32
PATHS = {
    "plain": ("plain", 1),
    "fused": ("fused", 1),
    "threads": ("fused", 2),
    "native": ("native", 1),
    "native threads": ("native", 2),
    "graphs": ("graphs", 1),
    "auto": ("auto", 1),
    "auto threads": ("auto", 2),
}
ALL = [path for path in PATHS if not path.startswith("auto")]
FUSED = [path for path in ALL if path != "plain"]


@dataclass
class Trained:
    """A learner and what carries out its updates."""

    learner: Learner
    execution: Execution


@pytest.fixture(scope="module")
def data() -> Transitions:
    return random_transitions(OBSERVATION_DIM, ACTION_DIM)


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(members: range = range(3), path: str = "plain", *, hidden: tuple[int, ...] = (16, 24), **settings) -> Trained:
    """Some members of a pack of three that differ in everything that members may differ in."""
    own = {key: [values[member] for member in members] for key, values in VARIED.items()}
    learner = make_learner([3 + member for member in members], hidden=hidden, updates=300, **own, **settings)
    code_path, threads = PATHS[path]
    if code_path == "native":
        native_library()  # or skip
    return Trained(learner, choose(learner, BATCH, code_path, threads))


def train(trained: Trained, data: Transitions, updates: int, measure: bool = False):
    return trained.execution.advance(Batches(data, trained.learner.seeds, BATCH, "cpu"), updates, measure)


@pytest.mark.parametrize("path", FUSED)
@pytest.mark.parametrize(
    ("variant", "dropout", "distribution"),
    [  # each pair of settings meets, and with `slow` each combination
        ("iql", None, "gaussian"),
        ("iql", 0.1, "deterministic"),
        ("iql_gwthomas", None, "deterministic"),
        ("iql_gwthomas", 0.1, "gaussian"),
        pytest.param("iql", 0.1, "gaussian", marks=pytest.mark.slow),
        pytest.param("iql", None, "deterministic", marks=pytest.mark.slow),
        pytest.param("iql_gwthomas", 0.1, "deterministic", marks=pytest.mark.slow),
        pytest.param("iql_gwthomas", None, "gaussian", marks=pytest.mark.slow),
    ],
)
def test_a_pack_has_the_plain_paths_weights_and_metrics(data, path, variant, dropout, distribution):
    settings = {"variant": variant, "dropout": dropout, "distribution": distribution}
    plain, fused = make(**settings), make(path=path, **settings)
    expected, metrics = train(plain, data, 100, measure=True), train(fused, data, 100, measure=True)
    for one, other in zip(states(plain.learner), states(fused.learner), strict=True):
        assert largest_difference(one, other) < 1e-5
    assert metrics.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(
            metrics[name], values, rtol=2e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("path", FUSED)
@pytest.mark.parametrize(
    ("variant", "dropout"),
    [
        ("iql", 0.1),
        ("iql_gwthomas", None),
        pytest.param("iql", None, marks=pytest.mark.slow),
        pytest.param("iql_gwthomas", 0.1, marks=pytest.mark.slow),
    ],
)
def test_a_member_has_the_same_numbers_alone(data, path, variant, dropout):
    pack = make(path=path, variant=variant, dropout=dropout)
    train(pack, data, 100)
    for place in range(3):
        alone = make(range(place, place + 1), path, variant=variant, dropout=dropout)
        train(alone, data, 100)
        bits = path != "graphs"  # on CPU one member runs on one thread, alone in two lanes
        assert largest_difference(alone.learner.network_state(0), pack.learner.network_state(place)) <= (
            0 if bits else 1e-5
        )


@pytest.mark.parametrize("hidden", [(16,), (16, 24, 8)])
@pytest.mark.parametrize("path", FUSED)
def test_any_number_of_hidden_layers(data, path, hidden):
    plain, fused = make(hidden=hidden), make(path=path, hidden=hidden)
    train(plain, data, 50)
    train(fused, data, 50)
    assert (
        max(largest_difference(*pair) for pair in zip(states(plain.learner), states(fused.learner), strict=True)) < 1e-5
    )


def test_networks_may_have_layers_of_their_own(data):
    value = {"_target_": "iql.networks.critics.Value", "hidden_dims": [40, 20, 30], "initialization": "orthogonal"}
    plain, fused = (make(range(1), path, networks={"value": value}) for path in ("plain", "threads"))
    train(plain, data, 50)
    train(fused, data, 50)
    assert largest_difference(plain.learner.network_state(0), fused.learner.network_state(0)) < 1e-5


def test_weight_decay_and_betas_of_adam_are_heeded(data):
    optimizer = {"_target_": "torch.optim.Adam", "betas": [0.8, 0.99], "eps": 1e-6, "weight_decay": 0.1}
    plain, fused = make(optimizer=optimizer), make(path="fused", optimizer=optimizer)
    default = make(path="fused")
    for learner in (plain, fused, default):
        train(learner, data, 50)
    assert largest_difference(plain.learner.network_state(1), fused.learner.network_state(1)) < 1e-5
    assert largest_difference(default.learner.network_state(1), fused.learner.network_state(1)) > 1e-3


@pytest.mark.parametrize("path", FUSED)
def test_it_continues_bit_for_bit_from_a_state_and_in_blocks(data, path):
    whole, first, second = (make(path=path, dropout=0.1) for _ in range(3))
    train(whole, data, 60)
    for count in (7, 16, 7):
        train(first, data, count)
    for member in range(3):
        second.learner.load(member, copy.deepcopy(first.learner.state(member)))
    second.execution.refresh()
    train(second, data, 30)
    for one, other in zip(states(whole.learner), states(second.learner), strict=True):
        assert largest_difference(one, other) == 0


def test_a_measured_update_is_the_same_update(data):
    for path in FUSED:
        silent, measured = make(path=path), make(path=path)
        assert train(silent, data, 20) is None
        for _ in range(20):
            metrics = train(measured, data, 1, measure=True)
        assert all(metric.shape == (3,) for metric in metrics.values())
        assert largest_difference(states(silent.learner)[0], states(measured.learner)[0]) == 0


def with_bfloat16(path: str) -> str:
    """The path; for native where this CPU has no products of bfloat16 what stands in for it (see test_native.py)."""
    return path if not path.startswith("native") or native_library().has_bf16() else path.replace("native", "auto")


@pytest.mark.parametrize("path", ALL)
def test_bfloat16_stays_near_float32(data, path):
    """A product between hidden layers: 8 bits of mantissa are 0.4 %."""
    path = with_bfloat16(path)
    exact, low = make(hidden=(64, 64), path=path), make(hidden=(64, 64), path=path, precision="bf16")
    metrics = [train(learner, data, 50, measure=True) for learner in (exact, low)]
    difference = max(largest_difference(*pair) for pair in zip(states(exact.learner), states(low.learner), strict=True))
    assert 1e-6 < difference < 0.04  # 50 steps of Adam move a weight by up to 0.05
    for name in ("value_loss", "q_loss", "policy_loss", "v", "q"):
        torch.testing.assert_close(metrics[1][name], metrics[0][name], rtol=0.05, atol=0.02)


@pytest.mark.parametrize("path", FUSED)
def test_bfloat16_takes_the_same_products_low_as_the_plain_path(data, path):
    path = with_bfloat16(path)
    plain, fused, exact = (
        make(hidden=(64, 64), path=p, precision=kind)
        for p, kind in (("plain", "bf16"), (path, "bf16"), ("plain", "float32"))
    )
    first = [train(learner, data, 1, measure=True) for learner in (plain, fused, exact)]
    for name in ("grad_norm_value", "grad_norm_q", "grad_norm_policy", "v", "q"):
        rounding = (first[0][name] - first[2][name]).abs().max()
        if path.startswith("native"):  # which rounds what goes into a product, not what comes out
            assert 0.1 * rounding < (first[1][name] - first[2][name]).abs().max() < 1.5 * rounding, name
        else:
            assert (first[0][name] - first[1][name]).abs().max() < 0.2 * rounding, name


def test_a_users_network_takes_its_products_in_bfloat16_too(data):
    exact, low = (
        train(make(networks={"value": target(OwnValue)}, precision=precision), data, 1, measure=True)
        for precision in ("float32", "bf16")
    )
    assert low["v"].dtype == torch.float32
    assert 1e-6 < (exact["v"] - low["v"]).abs().max() < 0.02


def test_loading_and_the_check_for_finite_weights_reach_the_flat_layout(data):
    loaded = make(path="fused", precision="bf16", hidden=(16, 16))
    with pytest.raises(ValueError, match="value"):
        loaded.learner.load_networks(0, make(range(1)).learner.network_state(0))  # other widths
    other = make(path="fused", precision="bf16", hidden=(16, 16))
    train(other, data, 20)
    for member in range(3):
        loaded.learner.load(member, other.learner.state(member))
    loaded.execution.refresh()
    for each in (loaded, other):
        train(each, data, 5)
    assert largest_difference(loaded.learner.network_state(2), other.learner.network_state(2)) == 0
    loaded.learner.networks["q"].net.kernels[0].data[1, 0, 0, 0] = math.nan
    assert loaded.learner.finite() == [True, False, True]


class OwnIQL(IQL):
    pass


@pytest.mark.parametrize(
    ("replaced", "reason"),
    [
        ({"networks": {"value": target(OwnValue)}}, "network.value is a Lifted"),
        ({"optimizer": {"_target_": "torch.optim.SGD"}}, "optimizer is not torch.optim.Adam"),
        ({"optimizer": {"_target_": "torch.optim.Adam", "amsgrad": True}}, "optimizer is not torch.optim.Adam"),
    ],
)
def test_what_has_no_written_gradients_is_trained_with_autograd(replaced, reason):
    learner = make(**replaced).learner
    assert isinstance(choose(learner, BATCH, "auto", 1), Eager)
    with pytest.raises(UserError, match=reason):
        choose(learner, BATCH, "fused", 1)


def test_an_algorithm_of_ones_own_is_trained_with_autograd():
    learner = make().learner
    learner.algorithm.__class__ = OwnIQL
    with pytest.raises(UserError, match="code_path=fused: algorithm is a OwnIQL; use code_path=auto or plain"):
        choose(learner, BATCH, "fused", 1)
    native_library()  # or skip
    execution = choose(learner, BATCH, "auto", 1)
    assert isinstance(execution, MemberThreads) and isinstance(execution._updates[0], NativeAutograd)


@pytest.mark.parametrize("dropout", [None, 0.1])
def test_any_algorithm_runs_as_it_is_captured_on_cuda(data, dropout):
    """The autograd update with its number on the device, as a graph holds it."""
    plain, captured = make(dropout=dropout), make(dropout=dropout)
    captured.execution = Graphs(captured.learner, AutogradUpdate(captured.learner), 1, "plain")
    metrics = [train(each, data, 40, measure=True) for each in (plain, captured)]
    for one, other in zip(states(plain.learner), states(captured.learner), strict=True):
        assert largest_difference(one, other) < 1e-6
    for name, values in metrics[0].items():
        torch.testing.assert_close(metrics[1][name], values, rtol=1e-4, atol=1e-5)


def test_an_update_that_cannot_be_captured_goes_on_without_graphs(data, caplog):
    networks = {"policy": {"_target_": "learners.OwnPolicy"}}  # with dropout from torch's own generator
    plain, captured = make(networks=networks), make(networks=networks)
    captured.execution = Graphs(captured.learner, AutogradUpdate(captured.learner), 1, "plain")
    train(plain, data, 20)
    train(captured, data, 20)
    assert "network.policy draws random numbers of its own" in caplog.text
    assert captured.learner.update_count == 20
    for one, other in zip(states(plain.learner), states(captured.learner), strict=True):
        assert largest_difference(one, other) == 0  # the run before, which found out, was taken back
    with pytest.raises(NotCapturable, match=r"the optimizer is not torch\.optim\.Adam"):
        AutogradUpdate(make(optimizer={"_target_": "torch.optim.SGD"}).learner)


@pytest.mark.parametrize("path", ["fused", "native"])
def test_on_one_thread_all_networks_share_their_buffers(path):
    update = make(range(1), path).execution._updates[0]
    passes = (update._policy, *update.q)
    assert len({each.gradients[0].data_ptr() for each in passes}) == 1
    lanes = make(range(1), "threads").execution._updates[0]
    assert len({each.gradients[0].data_ptr() for each in lanes.q}) == 2


def test_a_failing_lane_ends_the_other(data, monkeypatch):
    for stage in ("forward_q", "value"):  # of the second lane, of the first
        learner = make(range(1), "threads")
        with monkeypatch.context() as patch:
            patch.setattr(IQLGradients, stage, lambda *_: 1 / 0)
            with pytest.raises((ZeroDivisionError, RuntimeError)):
                train(learner, data, 3)


def test_graphs_count_updates_as_the_host_does(data):
    trained = make(path="graphs")
    assert isinstance(trained.execution, Graphs)
    train(trained, data, 37)
    train(trained, data, 4, measure=True)
    assert trained.learner.update_count == int(trained.execution._number) == 41


def test_the_estimate_of_a_members_memory_counts_its_tensors():
    networks = make(range(1), hidden=(16, 24)).learner.networks
    count = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    layers = {name: [n, 16, 24, m] for name, n, m in (("value", 5, 1), ("q", 7, 1), ("policy", 5, 2))}
    trained = count["value"] + count["q"] + count["policy"] - ACTION_DIM  # the log std is not counted
    settings = {"algorithm": {"_target_": "iql.algorithms.iql.IQL"}, "network": {}, "batch_size": 0, "updates": 1}
    assert member_bytes(settings, layers) == 4 * (4 * trained + count["q_target"])
