"""iql.load_policy and scripts/export.py: a trained policy acts as in its evaluations, wherever it is loaded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import commands
import mujoco
import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from conftest import ROOT, Trainer

import iql
from iql.errors import UserError
from iql.policies.export import FORMATS, TOLERANCE
from iql.policies.policy import TrainedPolicy
from iql.policies.rollout import act_of
from iql.runs import checkpoints
from iql.runs.saved_networks import FORMAT

OWN = """
import torch
from torch import nn

class Scaled(nn.Module):
    def __init__(self, observation_dim, action_dim, gain):
        super().__init__()
        self.inner, self.head = nn.Linear(observation_dim, 8), nn.Linear(8, action_dim)
        self.log_std = nn.Parameter(torch.zeros(action_dim))
        self.register_buffer("gain", torch.rand(1) + gain)

    def forward(self, observations):
        return torch.tanh(self.gain * self.head(torch.relu(self.inner(observations)))), self.log_std
"""

KINDS = {
    "gaussian": (),
    "normalised, deterministic": ("network=deterministic", "env.normalize=true"),
    "unsquashed": ("algorithm=iql_gwthomas",),
    "gelu, normalised layers, fixed deviation": (
        *("network=ogbench", "network.hidden_dims=[24,16,24]", "network.policy.std=0.5"),
        *("network.policy.layer_norm=after", "env.normalize=true"),
    ),
    "own class": ("~network.policy", "+network.policy={_target_:own_policy.Scaled,gain:2.0}"),
}


FQLS = "gelu, normalised layers, fixed deviation"
UNSQUASHED = pytest.param("unsquashed", marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Callable[[str], Path]:
    """A finished run of each kind, trained when it is first asked for."""
    folder = tmp_path_factory.mktemp("policies")
    (folder / "own_policy.py").write_text(OWN)
    made: dict[str, Path] = {}

    def run(kind: str) -> Path:
        if kind not in made:
            environment = {**os.environ, "IQL_DATA_DIR": str(data_dir)}
            train = Trainer(folder / f"runs{len(made)}", environment | {"PYTHONPATH": str(folder)})
            result = train(*KINDS[kind], "seed=[3,4]")
            assert result.returncode == 0, result.stderr
            made[kind] = train.directories()[0]
        return made[kind]

    sys.path.insert(0, str(folder))
    return run


@pytest.fixture(params=["gaussian", "normalised, deterministic", UNSQUASHED, FQLS, "own class"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def run(runs: Callable[[str], Path], kind: str) -> Path:
    return runs(kind)


def observations(policy: TrainedPolicy, count: int = 5) -> np.ndarray:
    return np.random.default_rng(0).normal(1, 1, (count, policy.observation_dim)).astype(np.float32)


def export(run: Path, *out: Path, expected: int = 0) -> commands.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "export.py"), str(run), "--trust", "--out", *map(str, out)]
    environment = {**os.environ, "PYTHONPATH": str(run.parents[4])}
    result = commands.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert result.returncode == expected, result.stdout + result.stderr
    return result


def test_it_acts_as_its_evaluations_do(run):
    policy = iql.load_policy(run, trust=True)
    assert (policy.task, policy.update, policy.observation_dim, policy.action_dim) == ("maze2d-umaze-made", 60, 4, 2)
    rows = observations(policy)
    np.testing.assert_allclose(policy.act(rows), act_of(policy.trained, trust=True)(rows), atol=2e-6)
    assert np.abs(policy.act(100 * rows)).max() <= 1


def test_one_or_many_in_numpy_or_torch(runs):
    policy = iql.load_policy(runs("gaussian"))
    rows = observations(policy)
    many = policy.act(rows)
    assert (many.shape, many.dtype) == ((5, 2), np.float32)
    one = policy.act(rows[0])
    assert one.shape == (2,)
    np.testing.assert_allclose(one, many[0], atol=1e-6)
    tensors = policy.act(torch.from_numpy(rows))
    assert isinstance(tensors, torch.Tensor)
    assert not tensors.requires_grad
    np.testing.assert_array_equal(tensors.numpy(), many)
    np.testing.assert_allclose(policy.act(rows.astype(np.float64)), many, atol=1e-6)
    assert policy.act(rows[:0]).shape == (0, 2)


@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 5, 4), ()])
def test_observations_of_another_size_are_refused(runs, shape):
    with pytest.raises(ValueError, match=r"are \[4\] or \[B, 4\]"):
        iql.load_policy(runs("gaussian")).act(np.zeros(shape, np.float32))


@pytest.mark.parametrize("kind", ["gaussian", FQLS])
def test_samples_have_the_mean_and_spread_of_the_gaussian(runs, kind):
    policy = iql.load_policy(runs(kind))
    row = torch.from_numpy(observations(policy)[:1])
    with torch.no_grad():
        mean, log_std = policy(row)
    generator = torch.Generator().manual_seed(0)
    drawn = policy.act(row.expand(20_000, -1), deterministic=False, generator=generator)
    expected = (mean + log_std.exp() * torch.randn(20_000, 2, generator=torch.Generator().manual_seed(1))).clamp(-1, 1)
    torch.testing.assert_close(drawn.mean(0), expected.mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(drawn.std(0), expected.std(0), atol=0.02, rtol=0)
    again = policy.act(row.expand(20_000, -1), False, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn, again, atol=0, rtol=0)


def test_a_deterministic_policy_has_nothing_to_sample(runs):
    policy = iql.load_policy(runs("normalised, deterministic"))
    with pytest.raises(ValueError, match="deterministic"):
        policy.act(np.zeros(4, np.float32), deterministic=False)


def test_it_needs_neither_hydra_nor_a_simulator(runs):
    code = f"""
import sys
import iql
assert "torch" not in sys.modules
for name in ("hydra", "omegaconf", "pydantic", "mujoco", "gymnasium", "gymnasium_robotics", "h5py", "matplotlib"):
    sys.modules[name] = None  # importing it raises
print(iql.load_policy({str(runs("gaussian"))!r}).act([0.0, 0.0, 0.0, 0.0]).shape)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == "torch.Size([2])\n", result.stderr


def test_a_file_by_itself_is_enough(run, tmp_path):
    policy = iql.load_policy(run, trust=True)
    shutil.copy(run / "networks.ckpt", tmp_path / "mine.ckpt")
    alone = iql.load_policy(tmp_path / "mine.ckpt", trust=True)
    assert alone.settings is None
    assert policy.settings["seed"] == 3
    np.testing.assert_array_equal(alone.act(observations(policy)), policy.act(observations(policy)))


def test_of_a_run_under_way_the_newest_sound_checkpoint(train, tmp_path):
    stop = "import os, signal; from iql.training import pack as packs; save = packs.Pack.save\n"
    stop += "def once(self, *a):\n    save(self, *a)\n"
    stop += "    if self.learner.update_count == 40: os.kill(os.getpid(), signal.SIGKILL)\npacks.Pack.save = once"
    assert train("env.normalize=true", patch=stop).returncode == -9
    (run,) = train.directories()
    policy = iql.load_policy(run)
    assert policy.update == 40
    assert (policy.mean != 0).all()  # its normalisation came with it
    newest = checkpoints.path_of(run / "checkpoints", 40)
    np.testing.assert_array_equal(iql.load_policy(newest).act(np.ones(4)), policy.act(np.ones(4)))
    newest.write_bytes(newest.read_bytes()[:-1])
    assert iql.load_policy(run).update == 20
    result = export(run, tmp_path / "policy.safetensors")
    assert "under way; the policy is that of update 20" in result.stdout
    assert "its run has not ended" in (tmp_path / "policy.md").read_text()


# What cannot be loaded


def test_what_is_no_policy(runs, tmp_path):
    run = runs("gaussian")
    (tmp_path / "begun").mkdir()
    shutil.copy(run / "manifest.json", tmp_path / "begun")
    (tmp_path / "empty.ckpt").touch()
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    (tmp_path / "text.safetensors").write_text("no tensors")
    (tmp_path / "newer.ckpt").write_bytes(
        (run / "networks.ckpt").read_bytes().replace(b"checkpoint 1", b"checkpoint 2", 1)
    )
    flipped = bytearray((run / "networks.ckpt").read_bytes())
    flipped[-50] ^= 1
    (tmp_path / "flipped.ckpt").write_bytes(flipped)
    for name, said in {
        ".": "not a run's directory",
        "nowhere": "no such run or file",
        "begun": "has no checkpoint yet",
        "empty.ckpt": "it is empty",
        "text.ckpt": "does not begin like a checkpoint",
        "newer.ckpt": "from a newer iql",
        "flipped.ckpt": "does not match its SHA-256",
        "text.safetensors": "damaged, or not exported by iql",
        "policy.onnx": "onnxruntime",
        "policy.pt2": "torch.export.load",
    }.items():
        with pytest.raises(UserError, match=said) as caught:
            iql.load_policy(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_newer_format_is_refused(runs, tmp_path):
    state = checkpoints.read(runs("gaussian") / "networks.ckpt")
    state["policy"]["format"] = FORMAT + 1
    checkpoints.write(tmp_path / "networks.ckpt", state)
    with pytest.raises(UserError, match="from a newer iql .*update iql"):
        iql.load_policy(tmp_path / "networks.ckpt")


def test_a_class_that_is_gone(runs, tmp_path):
    state = checkpoints.read(runs("own class") / "networks.ckpt")
    state["policy"]["network"]["_target_"] = "nowhere.Policy"
    checkpoints.write(tmp_path / "networks.ckpt", state)
    with pytest.raises(UserError, match="nowhere.Policy cannot be imported"):
        iql.load_policy(tmp_path / "networks.ckpt", trust=True)


@pytest.mark.parametrize("kind", ["normalised, deterministic", UNSQUASHED])
def test_runs_of_before_the_file_described_itself(run, tmp_path):
    state = checkpoints.read(run / "networks.ckpt")
    del state["policy"]
    checkpoints.write(tmp_path / "networks.ckpt", state)
    with pytest.raises(UserError, match="from an older iql"):
        iql.load_policy(tmp_path)
    shutil.copy(run / "manifest.json", tmp_path)
    rows = observations(iql.load_policy(run))
    np.testing.assert_array_equal(iql.load_policy(tmp_path).act(rows), iql.load_policy(run).act(rows))


# Exported


def test_every_form_says_what_pytorch_says(run, kind, tmp_path):
    policy = iql.load_policy(run, trust=True)
    files = [tmp_path / f"policy{suffix}" for suffix in FORMATS]
    result = export(run, *files)
    assert result.stderr == ""
    assert result.stdout.count("differs from PyTorch by") == 3
    rows = observations(policy, 37)
    with torch.no_grad():
        mean, log_std = policy(torch.from_numpy(rows))
    expected = [mean.clamp(-1, 1).numpy(), mean.numpy()] + ([] if log_std is None else [log_std.numpy()])
    session = onnxruntime.InferenceSession(files[0])
    names = [output.name for output in session.get_outputs()]
    assert names == ["action", "mean", "log_std"][: len(expected)]
    loaded = torch.export.load(files[1]).module()
    for count in (1, 37):
        played = session.run(None, {"observations": rows[:count]})
        exported = loaded(torch.from_numpy(rows[:count]))
        for one, other, third in zip(expected, played, exported, strict=True):
            np.testing.assert_allclose(other, one[:count], atol=TOLERANCE, rtol=TOLERANCE)
            np.testing.assert_allclose(third.detach(), one[:count], atol=TOLERANCE, rtol=TOLERANCE)
    np.testing.assert_allclose(iql.load_policy(files[2], trust=True).act(rows), expected[0], atol=TOLERANCE)


def test_the_model_card(runs, tmp_path):
    run = runs("gaussian")
    export(run, tmp_path / "policy.onnx")
    card = (tmp_path / "policy.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "iql"
    assert "maze2d-umaze-made" in front["tags"]
    manifest, summary = (json.loads((run / f"{name}.json").read_text()) for name in ("manifest", "summary"))
    for said in (
        manifest["git"]["commit"],
        f"| final evaluation, 2 episodes | {summary['final_score']:.1f} | [",
        "| 2 seeds, final |",
        f"| mujoco              | {mujoco.__version__}",
        "licence of the data",
        "| beta                    | 3.0",
        'onnxruntime.InferenceSession("policy.onnx")',
    ):
        assert said in card
    assert "one seed" not in card.lower()


def test_of_one_seed_the_card_says_so(runs, tmp_path):
    alone = tmp_path / "one" / "seed=3"
    shutil.copytree(runs("gaussian"), alone)
    export(alone, tmp_path / "policy.safetensors")
    assert "One seed was trained: there is no interval over seeds" in (tmp_path / "policy.md").read_text()


@pytest.mark.parametrize(
    ("out", "said"),
    [("policy.bin", "must end in .onnx, .pt2, .safetensors"), ("nowhere/policy.onnx", "there is no folder")],
)
def test_what_cannot_be_written_is_refused(runs, tmp_path, out, said):
    result = export(runs("gaussian"), tmp_path / out, expected=1)
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_differs_is_not_written(runs, tmp_path, monkeypatch):
    from iql.policies import export

    encode, _ = FORMATS[".pt2"]
    wrong = lambda content: lambda rows: [rows[:, :2] + 2e-6] * 3  # noqa: E731
    monkeypatch.setitem(FORMATS, ".pt2", (encode, wrong))
    with pytest.raises(UserError, match="differs from PyTorch by .*not written"):
        export.export(iql.load_policy(runs("gaussian")), tmp_path / "policy.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_says_how_to_get_it(runs, tmp_path, monkeypatch):
    from iql.policies import export

    for package in ("onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[export\]'"):
        export.export(iql.load_policy(runs("gaussian")), tmp_path / "policy.onnx")
