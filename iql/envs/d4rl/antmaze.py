"""D4RL's antmaze: an ant walks through a maze to a goal that it does not observe."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import gymnasium
import mujoco
import numpy as np

from iql.envs.d4rl.ant import FRAME_SKIP, AntBody, compile_model, description
from iql.envs.d4rl.mazes import GOAL_SPREADS, MAZES, REACH, Maze, distance

TORQUE = 30.0
"""Torque of an action of 1 (N·m)."""

WALL_HEIGHT = 2.0
"""Metres."""

RUN_SEED_BIT = 31
"""Seeds carry the seed of a run in their bits from this one up, if the run has one goal."""


def describe(maze: Maze) -> ET.Element:
    """The maze's model: Gymnasium's ant with the differences of D4RL's ant.xml, and the walls of its maze_env.py.

    The time step is twice as long, motors are as strong as their ctrlrange, and contacts have a solref
    and solimp of their own, walls included.
    """
    root = description()
    for path, attributes in {
        "option": {"timestep": "0.02"},
        "default/geom": {"solref": ".02 1", "solimp": ".8 .8 .01"},
    }.items():
        element = root.find(path)
        assert element is not None
        element.attrib.update(attributes)
    for motor in root.iter("motor"):
        motor.attrib.update(ctrlrange=f"{-TORQUE} {TORQUE}", gear="1")
    world = root.find("worldbody")
    assert world is not None
    size = f"{maze.cell_size / 2} {maze.cell_size / 2} {WALL_HEIGHT / 2}"
    for j, i in np.argwhere(maze.walls.T):  # D4RL's order: along x first
        x, y = maze.middle((i, j))
        ET.SubElement(
            world,
            "geom",
            type="box",
            name=f"wall_{i}_{j}",
            pos=f"{x} {y} {WALL_HEIGHT / 2}",
            size=size,
            contype="1",
            conaffinity="1",
            rgba=".7 .5 .3 1",
        )
    return root


class AntMaze(AntBody):
    """D4RL's antmaze with its sparse reward: observation qpos and qvel [29], action [8].

    An episode starts around x = y = 0 and ends with a reward of 1 at the first step within REACH of
    `goal` [2], which may be set after a reset and is drawn anew by the next. A reset's seed from 2³¹ up
    holds a run's seed in its bits from the 31st: then that part alone determines the goal, so that all episodes of a
    run share it (-v0), and the whole seed determines the start. A smaller seed determines both, so that each episode
    has its own goal (-v2), as without a seed.
    """

    def __init__(self, maze: Maze, physics: str = "d4rl"):
        super().__init__(compile_model(describe(maze), physics), 29)
        self.maze = maze
        self.goal = maze.goal

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        observation, info = super().reset(seed=seed, options=options)
        run_seed = (seed or 0) >> RUN_SEED_BIT
        self.goal = _draw_goal(self.maze, np.random.default_rng(run_seed) if run_seed else self.np_random)
        return observation, info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        data = self.data
        data.ctrl[:] = -TORQUE + (action + 1.0) * TORQUE  # as D4RL rounds it
        mujoco.mj_step(self.model, data, nstep=FRAME_SKIP)
        reached = bool(distance(data.qpos[:2], self.goal) <= REACH)
        return self._observation(), float(reached), reached, False, {"success": reached}

    def _observation(self) -> np.ndarray:
        return np.concatenate([self.data.qpos, self.data.qvel])


def _draw_goal(maze: Maze, draws: np.random.Generator) -> np.ndarray:
    """A goal [2] as D4RL spreads it over its cell; maze.goal is the middle of them all."""
    lowest = maze.goal - sum(GOAL_SPREADS) / 2
    return lowest + sum(draws.uniform(0.0, spread, size=2) for spread in GOAL_SPREADS)


def make(name: str, physics: str) -> gymnasium.Env:
    """The maze `name` without a step limit; physics="gymnasium" keeps the installed MuJoCo's masses."""
    return AntMaze(MAZES[name], physics)
