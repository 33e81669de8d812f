"""Optimizers of a pack: Adam for all members at once, any other optimizer of torch's once for each member."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from iql.learner.parameters import FlatParameters

# What torch.optim.Adam(fused=True) calls, as torch._foreach_add_ for its steps. They are called directly because a step
# of torch.optim's costs 60 µs beside the kernel's work, because parts of a network take their steps on several threads,
# and because torch.optim imports torch's compiler, which takes a second at start-up. A change of these kernels in torch
# would break it: tests/learner/test_optimizers.py compares them with torch.optim.Adam.
_adam = torch._fused_adam_

# On CUDA one kernel of torch._fused_adam_ takes 36 tensors, and a block of its threads up to 65,536 numbers of one of
# them: a network of 70,000 parameters as one tensor occupies two of a GPU's hundred multiprocessors, for 40 µs.
_TENSORS_A_KERNEL, _PIECE = 36, 2048

_UNSUPPORTED = ("amsgrad", "maximize", "decoupled_weight_decay", "differentiable")

Settings = dict[str, Any]


def adam_settings(factory: Callable[..., torch.optim.Optimizer]) -> Settings | None:
    """betas, eps and weight_decay if `factory` makes torch.optim.Adam in its plain form; None for all else."""
    keywords = getattr(factory, "keywords", {})
    if getattr(factory, "func", factory) is not torch.optim.Adam or any(keywords.get(key) for key in _UNSUPPORTED):
        return None
    defaults = inspect.signature(torch.optim.Adam).parameters
    return {key: keywords.get(key, defaults[key].default) for key in ("betas", "eps", "weight_decay")}


class PackAdam:
    """Adam's state for a network of a whole pack: moments [G, P] like the parameters, steps [G]."""

    def __init__(self, flat: FlatParameters, lr: Sequence[float], settings: Settings):
        self.flat, self.lr, self.settings = flat, list(lr), settings
        self.first_moments, self.second_moments = torch.zeros_like(flat.rows), torch.zeros_like(flat.rows)
        self.steps = torch.zeros(len(flat.rows), device=flat.rows.device)

    def rows(self, rows: range, gradients: Tensor) -> AdamRows:
        """The step of some rows, whose gradients [len(rows), P] will stand in `gradients`."""
        return AdamRows(self, rows, gradients)

    def step(self, gradients: Sequence[Tensor], factor: float | Tensor) -> None:
        """One step with a gradient for each parameter, [members, ...]; learning rates are multiplied by `factor`.

        Gradients that stand in `gradients` already are not copied.
        """
        places, rows = self._whole
        pairs = zip(places, gradients, strict=True)
        if elsewhere := [pair for pair in pairs if pair[0].data_ptr() != pair[1].data_ptr()]:
            torch._foreach_copy_([place for place, _ in elsewhere], [gradient for _, gradient in elsewhere])
        rows.step(factor)

    @cached_property
    def gradients(self) -> Tensor:
        """Where those of all rows go in updates with autograd, [G, P]."""
        return torch.zeros_like(self.flat.rows)

    @cached_property
    def _whole(self) -> tuple[list[Tensor], AdamRows]:
        """Where each parameter's gradient goes, and the step of all rows."""
        return self.flat.places(self.gradients), self.rows(range(len(self.gradients)), self.gradients)

    def of(self, members: range, flat: FlatParameters) -> PackAdam:
        """Some members' part of it, whose tensors are parts of these; `flat` their rows."""
        own = PackAdam(flat, self.lr[members.start : members.stop], self.settings)
        rows = slice(members.start * flat.copies, members.stop * flat.copies)
        own.first_moments, own.second_moments = self.first_moments[rows], self.second_moments[rows]
        own.steps = self.steps[rows]
        return own

    def tensors(self) -> list[Tensor]:
        """All that a step changes besides the parameters."""
        return [self.first_moments, self.second_moments, self.steps]

    def state(self, member: int) -> dict[str, Tensor]:
        """One member's state on the CPU: moments [copies, P], steps [copies]."""
        # Copies: torch.save writes all that a view is of, here the moments of the whole pack.
        return {name: tensor.to("cpu", copy=True) for name, tensor in self._views(member).items()}

    def load(self, member: int, state: dict[str, Any]) -> None:
        """Continue from a member's state, also from one as torch.optim.Adam saves it. Raises ValueError."""
        if "state" in state:
            state = self._flattened(state["state"])
        for name, tensor in self._views(member).items():
            if state[name].shape != tensor.shape:
                raise ValueError(f"{name} is {tuple(state[name].shape)}, not {tuple(tensor.shape)}")
            tensor.copy_(state[name])

    def _views(self, member: int) -> dict[str, Tensor]:
        rows = slice(member * self.flat.copies, (member + 1) * self.flat.copies)
        moments = {"exp_avg": self.first_moments, "exp_avg_sq": self.second_moments}
        return {**{name: each[rows, : self.flat.size] for name, each in moments.items()}, "step": self.steps[rows]}

    def _flattened(self, states: dict[int, dict[str, Tensor]]) -> dict[str, Tensor]:
        """torch's state, by the place of each parameter in its module, as rows."""
        order = [states[place] for place in range(len(states))]
        flat = {name: torch.zeros(self.flat.copies, self.flat.rows.shape[1]) for name in ("exp_avg", "exp_avg_sq")}
        for name, rows in flat.items():
            self.flat.fill(rows, [each[name] for each in order])
        moments = {name: rows[:, : self.flat.size] for name, rows in flat.items()}
        return {**moments, "step": order[0]["step"].expand(self.flat.copies)}


def in_pieces(tensors: tuple[list[Tensor], ...], most: int) -> tuple[list[Tensor], ...]:
    """Lists of rows [P], the last one of their steps [], as lists of at most `most` pieces of rows, if rows are fewer.

    A step is counted once, however many pieces refer to it.
    """
    *parts, steps = tensors
    size, rows = parts[0][0].numel(), len(steps)
    length = -(-size // max(1, most // rows))
    length = max(_PIECE, -(-length // 4) * 4)  # so that pieces begin where four numbers can be loaded at once
    count = -(-size // length)
    return (
        *([piece for row in part for piece in row.split(length)] for part in parts),
        [step for step in steps for _ in range(count)],
    )


class AdamRows:
    """Adam's step for some rows of a network; those of one learning rate take it together."""

    def __init__(self, adam: PackAdam, rows: range, gradients: Tensor):
        flat, self.settings = adam.flat, adam.settings
        self._steps = [adam.steps[row] for row in rows]
        by_rate: dict[float, list[int]] = {}
        for place, row in enumerate(rows):
            by_rate.setdefault(adam.lr[row // flat.copies], []).append(place)
        self.groups: list[tuple[float, tuple[list[Tensor], ...]]] = []
        """Learning rate; weights, gradients, first and second moments, steps of its rows (CUDA: of pieces)."""
        for rate, places in by_rate.items():
            own = [rows[place] for place in places]
            tensors = (
                [flat.rows[row] for row in own],
                [gradients[place] for place in places],
                [adam.first_moments[row] for row in own],
                [adam.second_moments[row] for row in own],
                [self._steps[place] for place in places],
            )
            self.groups.append((rate, in_pieces(tensors, _TENSORS_A_KERNEL) if flat.rows.is_cuda else tensors))

    def step(self, factor: float | Tensor) -> None:
        """One step, the learning rates times `factor`."""
        torch._foreach_add_(self._steps, 1)
        for rate, (weights, gradients, first, second, steps) in self.groups:
            _adam(
                *(weights, gradients, first, second, [], steps),
                lr=rate * factor,
                beta1=self.settings["betas"][0],
                beta2=self.settings["betas"][1],
                weight_decay=self.settings["weight_decay"],
                eps=self.settings["eps"],
                amsgrad=False,
                maximize=False,
            )


class MemberOptimizers:
    """Any optimizer of torch's or of a user's own: one for each member.

    Each works on contiguous copies of its member's parameters, as some (those with fused=True) take memory for dense
    that in the rows of a network is not.
    """

    def __init__(self, factory: Callable[..., torch.optim.Optimizer], flat: FlatParameters, lr: Sequence[float]):
        self.lr = list(lr)
        self._views = [[p.detach()[member] for p in flat.parameters] for member in range(flat.members)]
        self._copies = [[view.clone(memory_format=torch.contiguous_format) for view in own] for own in self._views]
        self._optimizers = [factory(own, lr=rate) for own, rate in zip(self._copies, lr, strict=True)]

    def step(self, gradients: Sequence[Tensor], factor: float | Tensor) -> None:
        """One step with a gradient for each parameter, [members, ...]; learning rates are multiplied by `factor`."""
        for member, (optimizer, rate) in enumerate(zip(self._optimizers, self.lr, strict=True)):
            optimizer.param_groups[0]["lr"] = rate * float(factor)
            views, copies = self._views[member], self._copies[member]
            for view, own, gradient in zip(views, copies, gradients, strict=True):
                own.copy_(view)
                own.grad = gradient[member].contiguous()
            optimizer.step()
            for view, own in zip(views, copies, strict=True):
                view.copy_(own)

    def state(self, member: int) -> dict[str, Any]:
        """One member's state, as its optimizer saves it."""
        return self._optimizers[member].state_dict()

    def load(self, member: int, state: dict[str, Any]) -> None:
        """Continue from a member's state."""
        self._optimizers[member].load_state_dict(state)
