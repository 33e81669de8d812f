"""The configuration: what is refused, with which words, and that every choice composes and validates."""

from __future__ import annotations

import sys
from pathlib import Path

import commands
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from iql.config import schema, settings
from iql.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = {group: sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml")) for group in schema.GROUPS}

# Sweeps are for sweep.py: test_sweeps.py composes every run of theirs.
GRIDS = {("sweep", name) for name in OPTIONS["sweep"] if name != "single"}


def composed(*overrides: str):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", list(overrides))


def read(*overrides: str) -> list[settings.Settings]:
    return settings.read(composed(*overrides))


def train_py(*arguments: str) -> commands.CompletedProcess[str]:
    """train.py in a process in which importing torch is an error."""
    blocked = "import sys; sys.argv[0] = 'train.py'; sys.modules['torch'] = None\n"
    blocked += "for name in list(sys.modules): sys.modules |= {name: None} if name.startswith('torch.') else {}\n"
    code = f"{blocked}import runpy; runpy.run_path('train.py', run_name='__main__')"
    return commands.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("env", OPTIONS["env"])
def test_every_env_composes_and_is_valid_with_the_papers_settings(env):
    (settings,) = read(f"env={env}")
    recipe = settings["env"]["recipe"]
    if env in ("minari", "ogbench"):
        assert settings["env"]["name"] is None  # it is the dataset's, not given here
    elif env.endswith("-singletask-v0"):  # a default task, which has the name with its number
        assert settings["env"]["name"].partition("-task")[0] == env.removesuffix("-v0")
    else:
        assert settings["env"]["name"] == env
    assert (settings["algorithm"]["tau"], settings["algorithm"]["beta"]) == (recipe["tau"], recipe["beta"])
    assert settings["network"]["policy"]["dropout"] == recipe["dropout"]


@pytest.mark.parametrize(("group", "option"), [(g, o) for g in OPTIONS if g != "env" for o in OPTIONS[g]])
def test_every_option_of_every_group_composes_and_is_valid(group, option):
    if (group, option) in GRIDS:
        pytest.raises(UserError, read, f"{group}={option}").match(f"python sweep.py sweep={option}")
    else:
        needed = [f"algorithm={option}"] if group == "preset" and option in ("xql", "rebrac") else []
        assert read("env=hopper-medium-v2", f"{group}={option}", *needed)


def test_hydras_own_section_resolves_and_leaves_no_folder_with_a_clock_in_its_name():
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        hydra = compose("config", return_hydra_config=True).hydra
    hydra.runtime.output_dir, hydra.job.num, hydra.job.id = ".", 0, "0"  # known once a job runs
    plain = OmegaConf.to_container(hydra, resolve=True)
    assert plain["run"]["dir"] == "."
    assert plain["output_subdir"] is None
    assert plain["job"]["chdir"] is False
    assert plain["sweep"] == {"dir": "runs/single", "subdir": "."}


def test_the_recipe_of_a_domain_is_the_papers():
    (hopper,), (door,) = read("env=hopper-medium-v2"), read("env=door-human-v1")
    assert (hopper["algorithm"]["tau"], hopper["algorithm"]["beta"], hopper["env"]["reward"]) == (
        0.7,
        3.0,
        "return_range",
    )
    assert (door["algorithm"]["tau"], door["algorithm"]["beta"], door["env"]["reward"]) == (0.7, 0.5, "none")
    assert door["network"]["policy"]["dropout"] == 0.1
    assert hopper["updates"] == door["updates"] == 1_000_000
    assert (hopper["evaluation"]["every"], hopper["evaluation"]["episodes"]) == (5000, 10)


def test_gwthomas_variant_changes_what_differs_there():
    (ours,), (theirs,) = read("env=hopper-medium-v2"), read("env=hopper-medium-v2", "algorithm=iql_gwthomas")
    own, other = settings.flatten(ours), settings.flatten(theirs)
    assert {key: other[key] for key in own if own[key] != other[key]} == {
        "algorithm.fresh_value": False,
        "algorithm.q_loss_scale": 0.5,
        "algorithm.initialization": "pytorch",
        "algorithm.policy_mean": "linear",
        "network.value.initialization": "pytorch",
        "network.q.initialization": "pytorch",
        "network.policy.initialization": "pytorch",
        "network.policy.mean": "linear",
    }


def test_corls_preset_sets_its_tuned_values_and_the_command_line_still_wins():
    (settings,) = read("env=hopper-medium-expert-v2", "preset=corl", "algorithm.beta=4")
    assert (settings["algorithm"]["tau"], settings["algorithm"]["beta"]) == (0.5, 4)
    assert settings["env"]["normalize"] is True
    assert settings["network"]["policy"]["log_std_range"] == [-20.0, 2.0]
    (medium,) = read("env=hopper-medium-v2", "preset=corl")
    assert medium["network"]["policy"]["distribution"] == "deterministic"
    assert medium["algorithm"]["polyak"] == 0.001


def test_seeds_and_members_spell_out_a_pack():
    assert [member["seed"] for member in read("seed=[4,5,6]")] == [4, 5, 6]
    members = read("env=maze2d-umaze-made", "members=[{seed:1,algorithm:{tau:0.5}},{seed:2,optimizer:{lr:0.001}}]")
    assert [(m["seed"], m["algorithm"]["tau"], m["optimizer"]["lr"]) for m in members] == [
        (1, 0.5, 3e-4),
        (2, 0.7, 1e-3),
    ]
    both = read("seed=[0,1]", "members=[{algorithm:{tau:0.5}},{algorithm:{tau:0.9}}]")
    assert [(m["algorithm"]["tau"], m["seed"]) for m in both] == [(0.5, 0), (0.5, 1), (0.9, 0), (0.9, 1)]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("algorithm.tau=1", ["algorithm.tau=1:", ">= 0.5 and < 1"]),
        ("algorithm.tau=high", ["algorithm.tau='high'", "a number"]),
        ("algorithm.beta=-1", ["algorithm.beta=-1", ">= 0"]),
        ("seed=-1", ["seed=-1", "a whole number >= 0"]),
        ("seed=[0,1.5]", ["seed=1.5", "a whole number"]),
        ("seed=[]", ["seed=[]"]),
        ("seed=[1,1]", ["same run twice"]),
        ("updates=1.5", ["updates=1.5", "a whole number >= 0"]),
        ("algorithm.fresh_value=3", ["algorithm.fresh_value=3", "true or false"]),
        ("network.hidden_dims=[]", ["network.hidden_dims", "a list"]),
        ("device=gpu", ["device='gpu'", "cuda"]),
        ("env.physics=new", ["env.physics='new'", "d4rl, gymnasium"]),
        ("+algorithm.tua=1", ["algorithm.tua: no such key", "algorithm.tau"]),
        ("++algorithm.tua=1", ["algorithm.tua: no such key", "algorithm.tau"]),
        ("+env.recipe.tua=1", ["env.recipe.tua: no such key", "env.recipe.tau"]),
        ("+upates=5", ["upates: no such key", "updates"]),
        ("+tracker.wandb.projet=x", ["tracker.wandb.projet: no such key", "tracker.wandb.project"]),
        ("~optimizer", ["optimizer: missing"]),
        ("members=[{seed:1,batch_size:8}]", ["batch_size cannot differ", "algorithm.tau"]),
        ("members=[{algorithm:{tau:0.3}}]", ["algorithm.tau=0.3"]),
        ("members=3", ["members: must be a list"]),
        (
            "network.policy._target_=nowhere.Policy",
            ["network.policy._target_=nowhere.Policy", "cannot be imported"],
        ),
    ],
)
def test_what_is_refused_is_named_with_what_is_accepted(override, words):
    with pytest.raises(UserError) as refusal:
        read(override)
    for word in words:
        assert word in str(refusal.value)


def test_a_users_class_is_held_to_its_signature():
    assert read("optimizer._target_=torch.optim.SGD", "+optimizer.momentum=0.9")
    with pytest.raises(
        UserError, match="optimizer.momentun: torch.optim.SGD takes no such argument; did you mean momentum"
    ):
        read("optimizer._target_=torch.optim.SGD", "+optimizer.momentun=0.9")


def test_equal_numbers_are_one_value_of_the_schemas_type():
    (typed,) = read("algorithm.beta=3.0", "+optimizer.betas=[0.0,0.9]", "+optimizer.weight_decay=0.0")
    (loose,) = read("algorithm.beta=3", "+optimizer.betas=[0,0.9]", "+optimizer.weight_decay=-0.0")
    assert repr(typed) == repr(loose)
    assert list(typed["optimizer"]) == ["_target_", "lr", "fused", "betas", "weight_decay"]  # no default is filled in
    (member,) = read("members=[{algorithm:{beta:3}}]")
    assert repr(member["algorithm"]["beta"]) == "3.0"
    assert isinstance(typed["updates"], int)
    with pytest.raises(UserError, match="same run twice"):
        read("members=[{algorithm:{beta:3}},{algorithm:{beta:3.0}}]")


def test_equal_numbers_are_one_value_of_a_users_own_class(monkeypatch, tmp_path):
    (tmp_path / "scaled_network.py").write_text(
        "from __future__ import annotations\n"
        "class Own:\n"
        "    def __init__(self, observation_dim, action_dim, gain: float, widths: list[float] | None,\n"
        "                 depth: int, scale=1.5, either: int | float = 0, free=None): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = composed()
    OmegaConf.set_struct(own, False)
    arguments = {"gain": 1, "widths": [1, 2.5], "depth": 2, "scale": 2, "either": 3, "free": 4}
    own.network.policy = {"_target_": "scaled_network.Own", **arguments}
    (member,) = settings.read(own)
    values = list(member["network"]["policy"].values())
    assert repr(values[1:]) == "[1.0, [1.0, 2.5], 2, 2.0, 3, 4]"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["algorithm.tua=1"], ["algorithm.tua: no such key", "algorithm.tau"]),
        (["+algorithm.tua=1"], ["algorithm.tua: no such key", "algorithm.tau"]),
        (["++algorithm.tua=1"], ["algorithm.tua: no such key", "algorithm.tau"]),
        (["algorithm.tau=1.5"], ["algorithm.tau=1.5", ">= 0.5 and < 1"]),
        (["algorithm.tau=x"], ["algorithm.tau='x'", "a number"]),
        (["env=hoper-medium-v2"], ["env=hoper-medium-v2: no such option", "env=hopper-medium-v2"]),
        (["evn=hopper-medium-v2"], ["evn: no such key", "env"]),
        (["algorithm=sac"], ["algorithm=sac: no such option", "iql_gwthomas"]),
        (["seed=0,1"], ["seed"]),
        (["algorithm.tau=["], ["algorithm.tau=["]),
        (["env=maze2d-umaze-made", "preset=corl", "~env.corl"], ["preset=corl", "no settings"]),
    ],
)
def test_a_wrong_command_line_is_one_line_without_importing_torch(arguments, words, tmp_path):
    result = train_py(*arguments, f"runs={tmp_path}")
    assert result.returncode == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    for word in words:
        assert word in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_task_with_discrete_actions_chooses_its_network_and_others_do_not():
    kinds = {name: read(*own)[0]["network"]["policy"]["_target_"].rpartition(".")[2] for name, own in {
        "default": (), "cartpole": ("env=cartpole-made",), "overridden": ("env=cartpole-made", "network=mlp"),
        "file": ("env=hdf5", "env.path=x"), "its own": ("env=hdf5", "env.path=x", "network=discrete"),
    }.items()}  # fmt: skip
    assert kinds == {
        "default": "Policy",
        "cartpole": "CategoricalPolicy",
        "overridden": "Policy",
        "file": "Policy",
        "its own": "CategoricalPolicy",
    }


@pytest.mark.parametrize(
    ("algorithm", "line"),
    [
        *[(name, f"which {shown} does not learn; use algorithm=bc or eql or iql or sql") for name, shown in
          [("xql", "XQL"), ("td3_bc", "TD3BC"), ("rebrac", "ReBRAC"), ("awac", "AWAC")]],
        ("iql algorithm.extraction=ddpg_bc", "which have no gradient of Q for extraction=ddpg_bc; "
                                             "use algorithm.extraction=awr"),
    ],
)  # fmt: skip
def test_an_algorithm_for_continuous_actions_refuses_the_discrete_network_and_data(algorithm, line):
    chosen = f"algorithm={algorithm}".split()
    with pytest.raises(UserError) as refused:
        read("network=discrete", *chosen)
    assert str(refused.value) == f"network.q is for discrete actions, {line}"
    continuous = read(*chosen)[0]
    settings.check_data(continuous, discrete=False)
    with pytest.raises(UserError) as refused:
        settings.check_data(continuous, discrete=True)
    assert str(refused.value) == f"env=maze2d-medium-stitch: its actions are discrete, {line}"


def test_a_users_own_network_is_taken_to_fit_the_actions():
    own = ("~network.policy", "+network.policy={_target_:torch.nn.Identity}", "algorithm=bc")
    for discrete in (True, False):
        settings.check_data(read(*own)[0], discrete)


def test_the_order_of_groups_is_the_one_that_names_of_runs_have():
    """Names list settings in the order of the configuration (iql.runs.run)."""
    groups = [key for key in composed() if key in schema.GROUPS]
    assert groups == ["env", "algorithm", "network", "optimizer", "evaluation", "finetune", "tracker", "sweep"]


def test_help_lists_the_groups_and_what_can_be_set():
    result = train_py("--help")
    assert result.returncode == 0
    for word in (
        "hopper-medium-expert-v2",
        "iql_gwthomas",
        "corl",
        "advantage_cap: 100.0",
        "precision: float32",
    ):
        assert word in result.stdout


def test_cfg_job_resolve_shows_the_truth():
    result = train_py("--cfg", "job", "--resolve", "env=door-human-v1", "algorithm.tau=0.8")
    shown = OmegaConf.to_container(OmegaConf.create(result.stdout))
    assert shown["algorithm"]["tau"] == 0.8
    assert shown["algorithm"]["beta"] == 0.5
    assert shown["network"]["policy"]["dropout"] == 0.1
