"""Recorded steps of OGBench's files, replayed in its environments."""

from __future__ import annotations

from typing import Any, cast

import mujoco
import numpy as np

from iql.envs import ogbench
from iql.envs.verification.recording import Recording
from iql.envs.verification.step_replay import Stepper, Successor
from iql.errors import UserError


class OGBenchStepper(Stepper):
    """An environment of OGBench's, set to the states of a recording one after the other.

    The joints of its robot arm are stiff, so that in up to a fifth of the steps, those with contacts, rounding to
    float32 changes the result by more than step_replay.TOLERANCE. Raises UserError for states of other sizes.
    """

    sensitive_share = 0.5

    def __init__(self, recording: Recording, task: str) -> None:
        self._recording = recording
        self.rewarded = False
        self._env = cast(Any, ogbench.make(task, "post").unwrapped)
        self._env.reset(seed=0)
        if recording.qvel.shape != (len(recording.qpos), self._env.model.nv):
            raise UserError(
                f"qvel is {list(recording.qvel.shape)} where {task} has [{len(recording.qpos)}, {self._env.model.nv}]: "
                "the data was recorded in another environment"
            )
        self._draws = np.random.default_rng(0)

    def step(self, row: int, perturbed: bool = False) -> Successor:
        """The result of the row's action in the row's state; `perturbed`: both changed within their rounding."""
        recording, env = self._recording, self._env
        convert = self._perturbed if perturbed else np.float64
        qpos, qvel = convert(recording.qpos[row]), convert(recording.qvel[row])
        if recording.button_states is not None:
            env.set_state(qpos, qvel, recording.button_states[row])
        else:
            env.set_state(qpos, qvel)
            if ogbench.is_costly(recording.simulator):
                self._move_arm_back(qpos, qvel)
        observation, *_ = env.step(convert(recording.actions[row]))
        return Successor(np.concatenate([env.data.qpos, env.data.qvel]), observation, np.asarray(np.nan))

    def recorded(self, row: int) -> Successor:
        """The result of the step on file."""
        recording = self._recording
        state = np.concatenate([recording.qpos[row + 1], recording.qvel[row + 1]]).astype(float)
        return Successor(state, recording.observations[row + 1].astype(float), np.asarray(np.nan))

    def _move_arm_back(self, qpos: np.ndarray, qvel: np.ndarray) -> None:
        """Put the hand, from which an action is counted, to where it was a physics step before the row's state.

        There the environments without buttons have it, as they do not compute it again after a step.
        """
        model, data = self._env.model, self._env.data
        before = qpos.copy()
        mujoco.mj_integratePos(model, before, qvel, -model.opt.timestep)
        data.qpos[:] = before
        mujoco.mj_kinematics(model, data)
        data.qpos[:] = qpos
