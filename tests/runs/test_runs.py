"""A run's identity and the packs that runs are trained in."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir

from iql.config import settings
from iql.errors import UserError
from iql.runs import checkpoints
from iql.runs.metrics_file import MetricsFile, read_metrics
from iql.runs.run import Run, configuration_name
from iql.system.atomic_files import write_json
from iql.training.resume import packs_of


@pytest.fixture(scope="module")
def defaults() -> settings.Settings:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return settings.read(compose("config", ["env=hopper-medium-v2"]))[0]


def changed(settings: settings.Settings, key: str, value: object) -> settings.Settings:
    settings = copy.deepcopy(settings)
    *sections, last = key.split(".")
    node = settings
    for section in sections:
        node = node[section]
    node[last] = value
    return settings


def test_a_setting_that_was_added_later_renames_no_earlier_run(defaults):
    earlier = copy.deepcopy(defaults)
    for key, value in (("keys", None), ("next_observations", "row")):
        assert earlier["env"].pop(key) == value
    for name, keys in {"value": (), "q": (), "policy": ("std",)}.items():
        for key in ("layer_norm", "activation", *keys):
            assert earlier["network"][name].pop(key) == ("relu" if key == "activation" else None)
    assert earlier["network"].pop("activation") == "relu"
    assert configuration_name(earlier, earlier, "data") == configuration_name(defaults, defaults, "data")
    own = changed(defaults, "env.next_observations", "file")
    assert configuration_name(own, earlier, "data").startswith("next_observations=file-")


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("algorithm.tau", 0.8, "tau=0.8-"),
        ("optimizer.lr", 1e-4, "lr=0.0001-"),
        ("network.value.hidden_dims", [64, 64], "hidden_dims=64x64-"),
        ("network.q.activation", "gelu", "activation=gelu-"),
        ("network.policy.std", 1.0, "std=1.0-"),
        ("updates", 10, "updates=10-"),
        ("evaluation.episodes", 3, "episodes=3-"),
        ("env.physics", "gymnasium", "physics=gymnasium-"),
    ],
)
def test_settings_that_decide_results_are_in_the_name_and_the_hash(defaults, key, value, shown):
    name = configuration_name(changed(defaults, key, value), defaults, "digest")
    assert name.startswith(shown)
    assert name.rpartition("-")[2] != configuration_name(defaults, defaults, "digest").rpartition("-")[2]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(
            ("seed", 5),
            ("device", "cpu"),
            ("threads", 3),
            ("runs", "elsewhere"),
            ("sweep.name", "other"),
            ("log_every", 7),
        ),
        *(("checkpoint.every", 9), ("tracker", {}), ("env.path", "x.hdf5"), ("evaluation.workers", 2)),
    ],
)
def test_settings_that_decide_no_result_change_no_name(defaults, key, value):
    assert configuration_name(changed(defaults, key, value), defaults, "d") == configuration_name(
        defaults, defaults, "d"
    )


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["env=hopper-medium-v2"], "default-cee1aaaf"),
        (["env=antmaze-umaze-v2"], "default-ff158f71"),
        (["env=hopper-medium-v2", "algorithm.beta=3"], "default-cee1aaaf"),  # the default's 3.0
        (["env=hopper-medium-v2", "algorithm.beta=10.0", "optimizer.lr=1e-4"], "beta=10.0,lr=0.0001-b1b2313d"),
        (["env=hopper-medium-v2", "algorithm.beta=10", "optimizer.lr=0.0001"], "beta=10.0,lr=0.0001-b1b2313d"),
        (["env=hopper-medium-v2", "+optimizer.betas=[0.9,0.99]"], "betas=0.9x0.99-3392cf79"),
    ],
)
def test_names_of_existing_runs_do_not_change(overrides, name):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        own, defaults = (settings.read(compose("config", chosen))[0] for chosen in (overrides, overrides[:1]))
    assert configuration_name(own, defaults, "digest") == name


def test_trackers_receive_values_of_the_schemas_types(tmp_path):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        own = settings.read(compose("config", ["algorithm.beta=3", f"runs={tmp_path}"]))[0]
    assert repr(Run(own, own, "digest").tracked_settings["algorithm"]["beta"]) == "3.0"


def test_other_data_is_another_run(defaults):
    assert configuration_name(defaults, defaults, "a") != configuration_name(defaults, defaults, "b")


def test_a_run_that_begins_again_because_its_data_changed_logs_it(defaults, tmp_path, caplog):
    settings = changed(defaults, "runs", str(tmp_path))

    def begin(digest: str, dataset: str = "own.hdf5", **other: object) -> Path:
        own = settings
        for key, value in other.items():
            own = changed(own, key.replace("__", "."), value)
        run = Run(own, defaults, digest)
        caplog.clear()
        run.directory.mkdir(parents=True, exist_ok=True)
        run.begin_attempt({"pack": [run.id]}, {"dataset": dataset})
        return run.directory

    first = begin("1")
    begin("2", dataset="another.hdf5")
    begin("3", seed=7)
    begin("4", algorithm__tau=0.8)
    begin("1")
    assert not caplog.messages
    broken = begin("5", algorithm__tau=0.9)
    (broken / "manifest.json").write_text("{}")
    begin("6", algorithm__tau=0.9)
    assert not caplog.messages
    second = begin("7")
    (line,) = caplog.messages
    assert second != first
    assert line == f"{second} begins anew: own.hdf5 is not the data on which {first} was begun with the same settings"
    begin("7")
    assert not caplog.messages


def test_names_are_at_most_120_bytes_and_safe(defaults):
    settings = defaults
    for key in ("tau", "beta", "discount", "polyak", "advantage_cap", "q_loss_scale"):
        settings = changed(settings, f"algorithm.{key}", 0.123456789012345678)
    settings = changed(settings, "network.policy.log_std_range", [-1.25, 1.75])
    name = configuration_name(settings, defaults, "digest")
    assert len(name.rpartition("-")[0].encode()) <= 120
    assert "/" not in name


@pytest.fixture
def runs(defaults, tmp_path) -> list[Run]:
    settings = changed(defaults, "runs", str(tmp_path))
    return [Run(changed(settings, "seed", seed), defaults, "digest") for seed in range(4)]


def began(run: Run, *pack: Run) -> None:
    run.directory.mkdir(parents=True, exist_ok=True)
    lives = [{"pack": [member.id for member in pack]}]
    manifest = {"run": run.id, "settings": run.settings, "facts": {}, "lives": lives}
    write_json(run.directory / "manifest.json", manifest)


def test_fresh_runs_make_one_pack(runs):
    assert packs_of(runs) == [runs]


def test_runs_that_began_as_a_pack_resume_as_one_and_a_finished_one_keeps_its_place(runs):
    for run in runs[:3]:
        began(run, *runs[:3])
    write_json(runs[1].directory / "summary.json", {})
    assert packs_of(runs) == [runs[:3], [runs[3]]]


def test_a_member_killed_before_its_manifest_still_belongs_to_its_pack(runs):
    began(runs[0], runs[0], runs[1])
    assert packs_of(runs[:2]) == [runs[:2]]


def test_a_run_taken_out_of_its_pack_resumes_alone(runs):
    began(runs[0], *runs)
    checkpoints.write(checkpoints.path_of(runs[0].checkpoints, 5), {})
    assert packs_of([runs[0]]) == [[runs[0]]]


def test_runs_taken_out_of_their_pack_resume_together(runs):
    for run in runs:
        began(run, *runs)
        checkpoints.write(checkpoints.path_of(run.checkpoints, 5), {})
    assert packs_of(runs[:2]) == [runs[:2]]
    for run in runs[:2]:
        began(run, *runs[:2])
    assert packs_of(runs) == [runs[:2], runs[2:]]


def test_a_run_whose_directory_was_deleted_begins_again_without_the_others(runs):
    for run in runs[:3]:
        began(run, *runs[:3])
        checkpoints.write(checkpoints.path_of(run.checkpoints, 5), {})
    shutil.rmtree(runs[1].directory)
    assert packs_of(runs) == [[runs[0], runs[2]], [runs[1], runs[3]]]


def test_finished_runs_make_no_pack(runs):
    for run in runs:
        began(run, *runs)
        write_json(run.directory / "summary.json", {})
    assert packs_of(runs) == []


def test_metrics_are_truncated_and_numbers_that_are_not_finite_are_null(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.record({"kind": "train", "update": 1, "v": float("nan")})
    length, digest = metrics.flush(sync=True)
    metrics.record({"kind": "train", "update": 2, "v": 1.0})
    metrics.flush()
    metrics.cut(length)
    assert read_metrics(tmp_path)[0] == [{"kind": "train", "update": 1, "v": None}]
    with pytest.raises(UserError, match="records are lost"):
        metrics.check(length + 1, digest)


def test_temporary_files_of_pictures_are_deleted_from_a_finished_run(runs):
    began(runs[0], runs[0])
    for name in (".map.png.0123.tmp", ".curve.png.4567.tmp", "map.png", "mine.tmp"):
        (runs[0].directory / name).touch()
    runs[0].delete_leftovers()
    assert {path.name for path in runs[0].directory.iterdir()} == {"manifest.json", "map.png", "mine.tmp"}
