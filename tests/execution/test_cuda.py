"""What a GPU computes against a CPU, in CUDA graphs and without: IQL_TEST_CUDA=1 python -m pytest -m cuda."""

from __future__ import annotations

import copy
import json
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TIMES, Trainer, random_transitions
from learners import (
    ACTION_DIM,
    DISCRETE,
    OBSERVATION_DIM,
    VARIED,
    OwnPolicy,
    OwnValue,
    largest_difference,
    make_learner,
    states,
    target,
)

from iql.algorithms.algorithm import Algorithm
from iql.algorithms.losses import cloning_loss
from iql.commands import parity
from iql.data.random_streams import keys, normal
from iql.data.sampling import Batches
from iql.data.transitions import Transitions
from iql.errors import UserError
from iql.execution import devices
from iql.execution.eager import Eager
from iql.execution.graphs import Graphs
from iql.execution.paths import Execution, choose
from iql.learner.golden_trace import GoldenTrace
from iql.learner.learner import Learner
from iql.networks.distributions import Gaussian
from iql.networks.dropout import DropoutMasks
from iql.runs import checkpoints

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU, and IQL_TEST_CUDA=1"),
]

BATCH = 32
GOLDEN = Path(__file__).resolve().parents[1] / "golden"


@pytest.fixture(scope="module")
def data() -> Transitions:
    return random_transitions(OBSERVATION_DIM, ACTION_DIM)


@pytest.fixture(autouse=True)
def full_float32():
    """So that a CPU's numbers can be expected."""
    devices.set_precision("ieee", torch.device("cuda"))
    yield
    devices.set_precision("float32", torch.device("cuda"))


def make(device: str, path: str = "plain", members: range = range(3), **settings) -> tuple[Learner, Execution]:
    """Some members of a pack of three that differ in everything that members may differ in."""
    own = {key: [values[member] for member in members] for key, values in VARIED.items()}
    settings = {"hidden": (64, 48), "updates": 300, **settings}
    learner = make_learner([3 + member for member in members], device=device, **own, **settings)
    return learner, choose(learner, BATCH, path, 1)


def train(trained: tuple[Learner, Execution], data: Transitions, updates: int, measure: bool = False):
    learner, execution = trained
    metrics = execution.advance(Batches(data, learner.seeds, BATCH, learner.device), updates, measure)
    return None if metrics is None else {name: values.cpu() for name, values in metrics.items()}


def apart(one: Learner, other: Learner) -> float:
    return max(largest_difference(*pair) for pair in zip(states(one), states(other), strict=True))


def captured(execution: Execution) -> bool:
    """Whether all that was carried out so far was carried out in CUDA graphs."""
    if not isinstance(execution, Graphs) or execution._eager is not None:
        return False
    return bool(execution._graphs) and all(graph is not None for graph, _ in execution._graphs.values())


@pytest.mark.parametrize("path", ["auto", "plain"])
@pytest.mark.parametrize(
    ("variant", "dropout", "distribution"),
    [("iql", None, "gaussian"), ("iql", 0.1, "deterministic"), ("iql_gwthomas", 0.1, "gaussian")],
)
def test_a_pack_in_graphs_has_the_weights_and_metrics_of_a_cpu(data, path, variant, dropout, distribution, caplog):
    settings = {"variant": variant, "dropout": dropout, "distribution": distribution, "precision": "ieee"}
    cpu, cuda = make("cpu", **settings), make("cuda", path, **settings)
    expected, metrics = train(cpu, data, 100, measure=True), train(cuda, data, 100, measure=True)
    assert cuda[1].name == ("graphs" if path == "auto" else "plain")
    assert captured(cuda[1]), caplog.text
    difference = apart(cpu[0], cuda[0])
    print(f"largest difference of a weight {difference:.1e}")
    assert difference < 1e-4
    assert metrics.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(
            metrics[name], values, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("path", ["auto", "plain"])
def test_graphs_compute_what_the_same_updates_do_without(data, path):
    """Graphs replay in place what is computed anew here: buffers, streams and the number of the update."""
    graphs, eager = (make("cuda", path, dropout=0.1, precision="ieee") for _ in range(2))
    train(graphs, data, 83)
    learner = eager[0]
    if path == "plain":
        Eager(learner, 1).advance(Batches(data, learner.seeds, BATCH, "cuda"), 83)
    else:
        batches = Batches(data, learner.seeds, BATCH, "cuda")
        with torch.no_grad():
            for number in range(83):
                eager[1]._update.update(batches.at(number), torch.tensor(number, device="cuda"), 0, False)
    difference = apart(graphs[0], learner)
    print(f"largest difference of a weight {difference:.1e}")
    assert difference < 1e-5


@pytest.mark.parametrize("path", ["auto", "plain"])
def test_it_continues_from_a_state_and_in_blocks(data, path):
    whole, first, second = (make("cuda", path, dropout=0.1) for _ in range(3))
    train(whole, data, 60)
    for count in (7, 16, 7):
        train(first, data, count)
    for member in range(3):
        second[0].load(member, copy.deepcopy(first[0].state(member)))
    second[1].refresh()
    train(second, data, 30)
    assert apart(whole[0], second[0]) == 0  # seen on an H100; libraries do not promise it


@pytest.mark.parametrize("path", ["auto", "plain"])
def test_a_measured_update_is_the_same_update(data, path):
    silent, measured = make("cuda", path), make("cuda", path)
    assert train(silent, data, 20) is None
    batches = Batches(data, measured[0].seeds, BATCH, "cuda")
    for _ in range(20):
        metrics = measured[1].advance(batches, 1, measure=True)
    assert all(metric.shape == (3,) for metric in metrics.values())
    assert apart(silent[0], measured[0]) < 1e-6


@pytest.mark.parametrize("path", ["auto", "plain"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_lower_precisions_stay_near_full_float32(data, path, precision):
    exact = make("cuda", path, precision="ieee")
    expected = train(exact, data, 50, measure=True)
    devices.set_precision(precision, torch.device("cuda"))
    low = make("cuda", path, precision=precision)
    metrics = train(low, data, 50, measure=True)
    assert captured(low[1])
    difference = apart(exact[0], low[0])
    print(f"largest difference of a weight {difference:.1e}")
    assert 1e-6 < difference < 0.04
    for name in ("value_loss", "q_loss", "policy_loss", "v", "q"):
        torch.testing.assert_close(metrics[name], expected[name], rtol=0.05, atol=0.02)


@pytest.mark.parametrize("trace", sorted(path for path in GOLDEN.glob("*.npz") if path.stem != "best_trajectories"))
def test_the_golden_traces_are_reproduced(trace):
    for path in ("plain", "graphs"):
        try:
            errors = parity.replay(GoldenTrace.read(trace), ["device=cuda", "precision=ieee"], path)
        except UserError as refusal:  # an algorithm whose gradients are not written out
            assert path == "graphs" and "code_path=graphs: algorithm" in str(refusal)
            continue
        print(f"{path}: largest relative error {max(errors.values()):.1e}")
        assert max(errors.values()) < 1e-4


def test_random_numbers_are_those_of_a_cpu(data):
    counters = torch.arange(10_000)
    drawn = [normal(keys([1, 2], "noise", where), counters.to(where)).cpu() for where in ("cpu", "cuda")]
    torch.testing.assert_close(drawn[0], drawn[1], rtol=1e-5, atol=1e-6)
    masks = [DropoutMasks(0.1, (64, 48), [1, 2]).to(where).at(7, BATCH) for where in ("cpu", "cuda")]
    assert all(torch.equal(one, other.cpu()) for one, other in zip(*masks, strict=True))
    batches = [Batches(data, [1, 2], BATCH, where, next_actions=True).at(70) for where in ("cpu", "cuda")]
    assert all(torch.equal(one, other.cpu()) for one, other in zip(*batches, strict=True))


def test_a_users_network_is_captured_unless_it_draws(data, caplog):
    networks = {"value": target(OwnValue)}
    cpu, cuda = (make(where, networks=networks, precision="ieee") for where in ("cpu", "cuda"))
    train(cpu, data, 50)
    train(cuda, data, 50)
    assert captured(cuda[1]), caplog.text
    assert apart(cpu[0], cuda[0]) < 1e-4

    drawing = make("cuda", networks={"policy": target(OwnPolicy)})
    train(drawing, data, 20)
    assert "network.policy draws random numbers of its own" in caplog.text
    assert drawing[0].update_count == 20
    assert drawing[0].finite() == [True] * 3


class Synchronising(Algorithm):
    """An update whose host waits for a number."""

    networks = ("policy",)

    def update(self, step):
        mean, log_std = step.networks["policy"](step.batch.observations)
        loss = cloning_loss(Gaussian(mean, log_std), step.batch.actions)
        step.minimize("policy", loss * min(2.0, 1 + abs(float(loss.detach().sum()))))


class Copying(Algorithm):
    """An update that makes a tensor of the device from a number of the host."""

    networks = ("policy",)

    def update(self, step):
        mean, log_std = step.networks["policy"](step.batch.observations)
        scale = torch.tensor([1.5, 2.5], device=mean.device).sum()
        step.minimize("policy", cloning_loss(Gaussian(mean, log_std), step.batch.actions) * scale)


def own(algorithm: type) -> dict[str, str]:
    return {"_target_": f"{__name__}.{algorithm.__name__}"}


@pytest.mark.parametrize("networks", [None, {"policy": target(OwnPolicy)}], ids=["ours", "dropout"])
def test_an_update_that_waits_for_the_device_goes_on_without_graphs(data, caplog, networks):
    cpu, cuda = (
        make(where, algorithm=own(Synchronising), networks=networks, precision="ieee") for where in ("cpu", "cuda")
    )
    train(cpu, data, 20)
    train(cuda, data, 20)
    assert "updates are not captured in CUDA graphs" in caplog.text
    assert cuda[0].update_count == 20
    if networks is None:  # dropout of torch's own is drawn otherwise on a GPU
        assert apart(cpu[0], cuda[0]) < 1e-4
    # What follows on this GPU is not harmed by the capture that was given up.
    other = make("cuda", "auto", dropout=0.1)
    train(other, data, 40)
    assert captured(other[1])
    torch.manual_seed(1)  # refused while torch takes the capture for unfinished
    assert torch.rand(3, device="cuda").sum() > 0


def test_an_update_that_copies_from_the_host_goes_on(data, caplog):
    cpu, cuda = (make(where, algorithm=own(Copying), precision="ieee") for where in ("cpu", "cuda"))
    train(cpu, data, 20)
    train(cuda, data, 20)
    assert "Cannot copy between CPU and CUDA tensors during CUDA graph capture" in caplog.text
    assert apart(cpu[0], cuda[0]) < 1e-4


def test_noise_of_an_algorithm_is_captured(data, caplog):
    cpu, cuda = (make(where, algorithm={"_target_": "learners.Noisy"}, precision="ieee") for where in ("cpu", "cuda"))
    expected, metrics = train(cpu, data, 40, measure=True), train(cuda, data, 40, measure=True)
    assert captured(cuda[1]), caplog.text
    torch.testing.assert_close(metrics["noise"], expected["noise"], rtol=1e-3, atol=1e-4)
    assert apart(cpu[0], cuda[0]) < 1e-4


def test_an_update_with_discrete_actions_is_captured(data, caplog):
    discrete = replace(data, actions=np.eye(ACTION_DIM, dtype=np.float32)[(data.actions[:, 0] > 0).astype(int)])
    cpu, cuda = (make(where, networks=DISCRETE, precision="ieee") for where in ("cpu", "cuda"))
    expected, metrics = (train(each, discrete, 40, measure=True) for each in (cpu, cuda))
    assert captured(cuda[1]), caplog.text
    torch.testing.assert_close(metrics["entropy"], expected["entropy"], rtol=1e-3, atol=1e-4)
    assert apart(cpu[0], cuda[0]) < 1e-4


def test_other_optimizers_run_without_graphs(data, caplog):
    optimizer = {"_target_": "torch.optim.SGD"}
    cpu, cuda = (make(where, optimizer=optimizer, precision="ieee") for where in ("cpu", "cuda"))
    train(cpu, data, 20)
    train(cuda, data, 20)
    assert "the optimizer is not torch.optim.Adam" in caplog.text
    assert apart(cpu[0], cuda[0]) < 1e-4


def test_a_state_of_one_device_continues_on_the_other(data, tmp_path):
    cuda, cpu = make("cuda", "auto", precision="ieee"), make("cpu", "fused", precision="ieee")
    train(cuda, data, 20)
    checkpoints.write(tmp_path / "update=000000020.ckpt", cuda[0].state(1))
    for member in range(3):
        cpu[0].load(member, cuda[0].state(member))
    cpu[1].refresh()
    assert largest_difference(states(cuda[0])[1], checkpoints.read(tmp_path / "update=000000020.ckpt")["networks"]) == 0
    for each in (cuda, cpu):
        train(each, data, 20)
    assert apart(cpu[0], cuda[0]) < 1e-4
    observations = torch.from_numpy(data.observations[:BATCH]).expand(3, -1, -1)
    on_cuda = cuda[0].mean_actions(observations.cuda()).cpu()
    torch.testing.assert_close(on_cuda, cpu[0].mean_actions(observations), rtol=0, atol=1e-4)


def test_waiting_for_a_card_ends_when_it_has_done_what_it_was_given():
    product = torch.ones(8192, 8192, device="cuda")
    done = torch.cuda.Event()
    for _ in range(20):
        product = product @ product * 0
    done.record()
    assert not done.query()
    devices.wait(torch.device("cuda"))
    assert done.query()


def test_what_does_not_fit_or_is_not_there_is_refused():
    cuda, free = torch.device("cuda"), torch.cuda.mem_get_info()[0]
    devices.check_memory(member=free // 100, shared=0, members=3, device=cuda)
    with pytest.raises(UserError, match=r"a pack of 3 needs about .* GiB on cuda, .* 1 would fit; split the pack"):
        devices.check_memory(member=int(free * 0.6), shared=0, members=3, device=cuda)
    count = torch.cuda.device_count()
    with pytest.raises(UserError, match=rf"device=cuda:{count}: this machine has {count} CUDA devices"):
        devices.choose(f"cuda:{count}")
    assert devices.choose("auto") == cuda
    assert (
        devices.choose(f"cuda:{count - 1}")
        == torch.device("cuda", count - 1)
        == torch.device("cuda", torch.cuda.current_device())
    )


def records(runs: Path) -> list[dict]:
    lines = [json.loads(line) for path in sorted(runs.rglob("metrics.jsonl")) for line in path.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


@pytest.mark.parametrize("algorithm", ["iql", "bc"])
def test_a_killed_training_on_cuda_ends_as_an_undisturbed_one(trainer_in, tmp_path, algorithm):
    whole, killed = (trainer_in(tmp_path / name) for name in ("whole", "killed"))
    overrides = ("device=cuda", "seed=[0,1]", f"algorithm={algorithm}", "updates=3000", "checkpoint.every=200")
    overrides += ("evaluation.every=1000", "log_every=100")
    result = whole(*overrides)
    assert result.returncode == 0, result.stderr
    assert "not captured" not in result.stderr
    process = killed.start(*overrides)
    while not list(killed.runs.rglob("*.ckpt")) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    result = killed(*overrides)
    assert result.returncode == 0, result.stderr
    assert len(records(whole.runs)) == len(records(killed.runs))
    assert records(whole.runs) == records(killed.runs)  # seen on an H100; libraries do not promise it
    one, other = (
        [checkpoints.read(path)["networks"] for path in sorted(trainer.runs.rglob("*.ckpt"))]
        for trainer in (whole, killed)
    )
    assert max(largest_difference(*pair) for pair in zip(one, other, strict=True)) == 0


def test_a_cards_memory_that_runs_out_is_one_line(train: Trainer):
    patch = "import torch; torch.cuda.set_per_process_memory_fraction(0.0008)"
    result = train("device=cuda", "network.hidden_dims=[256,256]", "batch_size=2048", patch=patch)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("train.py: the memory of cuda ran out")


def test_a_pack_too_large_for_the_card_is_one_line(train: Trainer):
    result = train("network.hidden_dims=[60000,60000]", "batch_size=4096", "seed=[0,1,2]", "device=cuda")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("train.py: a pack of 3 needs about ")
    assert not train.runs.exists()
