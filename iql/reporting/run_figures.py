"""Figures of one run: its learning curve, and in a maze the map of V with the policy's paths."""

from __future__ import annotations

import io
import logging
import math
import textwrap
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from iql.config.phases import Phases
from iql.errors import UserError
from iql.reporting.figure_style import BLUE, GREEN, ORANGE, VERMILION, Axes, Figure, empty_figure, thousands
from iql.reporting.protocols import MEASURES
from iql.runs.metrics_file import Record, of_kind, read_records
from iql.system.atomic_files import read_json, replace_file
from iql.system.size_limits import check_archive

log = logging.getLogger(__name__)

DPI = 150
WALL_MARGIN = 0.3  # of a cell: how much of the outer walls a map shows
TEXT_COLOUR = "#24292f"
FAINT_COLOUR = "#8b949e"
LOSSES = {"value_loss": ("value", GREEN), "q_loss": ("Q", ORANGE), "policy_loss": ("policy", VERMILION)}


def draw(directory: Path | str) -> dict[str, Path]:
    """Draw the figures of a finished run and return their paths by name; one that cannot be drawn is logged."""
    drawn = {}
    for name, picture in (("map", value_map), ("curve", learning_curve)):
        try:
            path = picture(directory)
        except (UserError, OSError) as error:
            log.warning("%s: no %s.png (%s)", directory, name, error)
            continue
        if path is not None:
            drawn[name] = path
    return drawn


def figures_missing(directory: Path) -> bool:
    """Whether a figure of a finished run that `draw` makes is missing."""
    names = ["curve", *(["map"] if (directory / "map.npz").exists() else [])]
    return any(not (directory / f"{name}.png").exists() for name in names)


def learning_curve(directory: Path | str) -> Path:
    """Draw curve.png in a run's directory and return its path.

    The upper axes show the score (the return, for a task without reference scores) against updates, with ± one
    standard deviation over the episodes, and of a finetuned run the episodes of exploration. The lower axes show the
    losses, each divided by its largest magnitude, which the legend gives.
    """
    directory = Path(directory)
    records = read_records(directory / "metrics.jsonl")
    train, evaluations, episodes = (of_kind(records, kind) for kind in ("train", "eval", "episode"))
    figure = empty_figure(7.0, 5.6)
    upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 2]})
    figure.suptitle(_title(directory), x=0.02, ha="left", color=TEXT_COLOUR, fontsize=11)
    manifest = read_json(directory / "manifest.json") or {}
    scored = manifest.get("facts", {}).get("scored")
    upper.set_ylabel(MEASURES[scored] if scored in ("return", "success") else "normalised score\n(100 = expert)")
    _draw_exploration(upper, episodes)
    _draw_scores(upper, evaluations)
    _draw_losses(lower, train)
    lower.set_xlabel("updates (gradient steps)")
    phases = Phases.of(manifest["settings"]) if "settings" in manifest else None
    if phases is not None and phases.steps and phases.offline:
        for each in (upper, lower):
            each.axvline(phases.offline, color=FAINT_COLOUR, lw=1.0, ls=":")
        upper.annotate("online →", (phases.offline, 1.0), xycoords=("data", "axes fraction"), xytext=(3, 2),
                       textcoords="offset points", color=FAINT_COLOUR, fontsize=8)  # fmt: skip
    lower.xaxis.set_major_formatter(lambda value, _: thousands(value))
    last = max((record["update"] for record in train + evaluations), default=0)
    lower.set_xlim(0, max(last, 1))
    return _save(figure, directory / "curve.png")


def value_map(directory: Path | str) -> Path | None:
    """Draw map.png from a run's map.npz and return its path; None where there is no map.npz.

    Raises UserError for a damaged map.npz.
    """
    directory = Path(directory)
    source = directory / "map.npz"
    if not source.exists():
        return None
    try:
        check_archive(source)
        return draw_value_map(source, _title(directory), directory / "map.png")
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{source} is damaged ({error}): delete it and run the training command again") from error


def draw_value_map(source: Path | BinaryIO, title: str, path: Path) -> Path:
    """Draw V and the paths of rollouts, the content of a map.npz, to `path`, a PNG file, and return it."""
    with np.load(source, allow_pickle=False) as arrays:
        maze = {name: arrays[name] for name in ("values", "extent", "walls", "goal", "paths")}
        success = arrays["success"].astype(bool)
    left, right, bottom, top = (float(edge) for edge in maze["extent"])
    width = 5.6 * (right - left) / (top - bottom) + 1.0  # of the map and its colour bar, in inches
    figure = empty_figure(min(max(width, 4.5), 11.0), 6.2)
    axes = figure.subplots()
    figure.suptitle(title, x=0.02, ha="left", color=TEXT_COLOUR, fontsize=11)
    _draw_walls(axes, maze["walls"], (left, right, bottom, top))
    learned = bool(np.isfinite(maze["values"]).any())  # not every algorithm learns V
    image = axes.imshow(
        np.ma.masked_invalid(maze["values"].T),
        origin="lower",
        extent=(left, right, bottom, top),
        cmap="viridis",
        interpolation="nearest",
        zorder=1,
    )
    _draw_paths(axes, maze["paths"], success, maze["goal"])
    free = np.argwhere(~maze["walls"])  # the outer walls are cut to a margin
    side = (right - left) / len(maze["walls"])
    low = np.array([left, bottom]) + side * np.maximum(free.min(axis=0) - WALL_MARGIN, 0.0)
    high = np.array([left, bottom]) + side * np.minimum(free.max(axis=0) + 1 + WALL_MARGIN, maze["walls"].shape)
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    axes.set_aspect("equal")
    axes.set_xlabel("x")
    axes.set_ylabel("y")
    shown = "V at rest, and " if learned else ""
    axes.set_title(f"{shown}{len(success)} rollouts: {success.sum()} reach the goal", loc="left", fontsize=9)
    if not learned:
        return _save(figure, path)
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
    bar.set_label("V: expected discounted return")
    bar.outline.set_visible(False)
    return _save(figure, path)


def _draw_scores(axes: Axes, evaluations: list[Record]) -> None:
    points = [record for record in evaluations if _finite(record.get("score"))]
    if not points:
        axes.text(0.5, 0.5, "no evaluation", transform=axes.transAxes, ha="center", color=FAINT_COLOUR)
        return
    updates = np.array([record["update"] for record in points])
    scores = np.array([record["score"] for record in points], float)
    spread = np.array([record.get("score_std") or 0.0 for record in points], float)
    episodes = len(points[-1].get("returns") or [])
    band = f"± standard deviation over {episodes} episodes" if episodes else "± standard deviation over episodes"
    axes.fill_between(updates, scores - spread, scores + spread, color=BLUE, alpha=0.18, lw=0, label=band)
    axes.plot(updates, scores, color=BLUE, lw=1.6, marker="o", ms=3 if len(points) < 60 else 0, label="mean")
    axes.annotate(
        f"{scores[-1]:.1f}",
        (updates[-1], scores[-1]),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        color=BLUE,
        annotation_clip=False,
    )
    axes.legend(loc="best", fontsize=8, frameon=False)


def _draw_exploration(axes: Axes, episodes: list[Record]) -> None:
    """The scores of the episodes that a finetuned policy explored with."""
    points = [(record["update"], record["score"]) for record in episodes if _finite(record.get("score"))]
    if points:
        updates, scores = np.array(points, float).T
        axes.plot(updates, scores, color=ORANGE, marker=".", ms=3, ls="", alpha=0.4, label="episodes of exploration")


def _draw_losses(axes: Axes, train: list[Record]) -> None:
    axes.set_ylabel("losses, scaled to ±1")
    axes.axhline(0, color=FAINT_COLOUR, lw=0.6)
    drawn = False
    for key, (name, colour) in LOSSES.items():
        points = [(r["update"], r[key]) for r in train if _finite(r.get(key))]
        if not points:
            continue
        updates, losses = np.array(points, float).T
        largest = np.abs(losses).max() or 1.0
        axes.plot(updates, losses / largest, color=colour, lw=1.1, label=f"{name} loss ÷ {largest:.3g}")
        drawn = True
    if drawn:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=8, frameon=False)
    else:
        axes.text(0.5, 0.5, "no training record yet", transform=axes.transAxes, ha="center", color=FAINT_COLOUR)


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _draw_walls(axes: Axes, walls: np.ndarray, extent: tuple[float, float, float, float]) -> None:
    """`walls` [I, J], i along x, filling `extent`: left, right, bottom, top."""
    axes.imshow(
        np.ma.masked_equal(walls.T.astype(float), 0.0),
        origin="lower",
        extent=extent,
        cmap="gray",
        vmin=0.0,
        vmax=5.0,  # a dark grey for 1
        interpolation="nearest",
        zorder=0,
    )


def _draw_paths(axes: Axes, paths: np.ndarray, success: np.ndarray, goal: np.ndarray) -> None:
    """`paths` [E, T+1, 2], NaN after an episode's end."""
    styles = {True: ("white", "reached the goal"), False: (VERMILION, "did not")}
    for reached, (colour, label) in styles.items():
        for number, path in enumerate(paths[success == reached]):
            steps = path[np.isfinite(path).all(axis=1)]
            if not len(steps):
                continue
            axes.plot(*steps.T, color=colour, lw=0.8, alpha=0.75, label=label if number == 0 else None, zorder=2)
            axes.plot(*steps[0], marker="o", ms=3, color=colour, mec=TEXT_COLOUR, mew=0.5, ls="", zorder=3)
    axes.plot(*goal, marker="*", ms=15, color=ORANGE, mec=TEXT_COLOUR, mew=0.8, ls="", label="goal", zorder=4)
    legend = axes.legend(
        loc="upper left", bbox_to_anchor=(0.0, -0.09), ncols=3, fontsize=8, frameon=True, facecolor="#b8bec6"
    )
    legend.get_frame().set_linewidth(0)


def _save(figure: Figure, path: Path) -> Path:
    for axes in figure.axes:
        axes.tick_params(colors=TEXT_COLOUR, labelsize=8)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set(color=TEXT_COLOUR, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=False)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=DPI)
    replace_file(path, image.getvalue())
    return path


def _title(directory: Path) -> str:
    """Task, configuration and seed, the parts of a run's path, in lines that fit a figure's width."""
    parts = (part.replace(",", ", ") for part in directory.resolve().parts[-3:])
    return "\n".join(textwrap.wrap("  ·  ".join(parts), 75))
