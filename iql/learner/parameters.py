"""A network's parameters as rows of numbers, which its module sees as views."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from iql.networks.lifting import Lifted
from iql.networks.mlp import MLP

# Rows begin where a cache line does: only there do GPUs load four numbers at once and choose their fast products.
_ALIGNED = 32


class FlatParameters:
    """A network's parameters, a row for each of G = members × copies networks: `rows` [G, P].

    Of a row the first `size` numbers are parameters; the others, fewer than 32, are 0.

    The module's parameters become views of `rows`, in which those of a perceptron stand first, kernel and bias of each
    layer, then scale and bias of each layer's normalisation, then what else the module learns. The last kernel lies
    transposed, [out, in]: with so few columns products are up to ten times faster that way. depth: the perceptron's
    layers, 0 for a module that is none. layer_norm: where its hidden layers are normalised, activation: what follows
    their products, both as in MLP.
    """

    def __init__(self, module: nn.Module):
        net = getattr(module, "net", None)
        self.parameters = list(module.parameters())
        """In the module's order, which is also that of saved optimizer states."""
        layers: list[nn.Parameter] = []
        norms: list[nn.Parameter] = []
        if isinstance(net, MLP):
            layers = [p for pair in zip(net.kernels, net.biases, strict=True) for p in pair]
            norms = [p for pair in zip(net.norm_scales, net.norm_biases, strict=True) for p in pair]
        of_layers = layers + norms
        parameters = of_layers + [p for p in self.parameters if all(p is not own for own in of_layers)]
        self._order = [next(i for i, p in enumerate(self.parameters) if p is own) for own in parameters]
        if len({p.dtype for p in parameters}) > 1:
            raise ValueError(f"the parameters of a {type(module).__name__} must all be of one type")
        self.members, self.copies = parameters[0].shape[0], 1
        copies = next((part.copies for part in (module, net) if isinstance(part, MLP | Lifted)), 1)
        if all(p.shape[1:2] == (copies,) for p in parameters):
            self.copies = copies
        self.depth = len(layers) // 2 if self.copies == copies else 0
        self.layer_norm = net.layer_norm if isinstance(net, MLP) and self.depth else None
        self.activation = net.activation if isinstance(net, MLP) else None
        lead = (self.members,) if self.copies == 1 else (self.members, self.copies)
        self._shapes = [p.shape[len(lead) :] for p in parameters]
        self._transposed = 2 * (self.depth - 1) if self.depth else None
        self._ends = list(accumulate(shape.numel() for shape in self._shapes))
        self.size = self._ends[-1]
        first, padded = parameters[0], -(-self.size // _ALIGNED) * _ALIGNED
        self.rows = torch.zeros(self.members * self.copies, padded, device=first.device, dtype=first.dtype)
        self.fill(self.rows, [parameter.detach() for parameter in self.parameters])
        for parameter, place in zip(self.parameters, self.places(self.rows), strict=True):
            parameter.data = place

    def of(self, members: range, module: nn.Module) -> FlatParameters:
        """Some members' rows, of which the parameters of `module` are views."""
        own = copy.copy(self)
        own.rows = self.rows[members.start * self.copies : members.stop * self.copies]
        own.members, own.parameters = len(members), list(module.parameters())
        return own

    def views(self, rows: Tensor) -> list[Tensor]:
        """Each parameter in `rows` [G, P] of some of the networks, [G, ...]; the last kernel is a transposed view."""
        views = []
        for number, (shape, end) in enumerate(zip(self._shapes, self._ends, strict=True)):
            part = rows[:, end - shape.numel() : end]
            if number == self._transposed:
                views.append(part.view(len(rows), *shape[::-1]).mT)
            else:
                views.append(part.view(len(rows), *shape))
        return views

    def places(self, rows: Tensor) -> list[Tensor]:
        """Views of `rows` [G, P] in the order and the shapes of `parameters`, [members, (copies,) ...]."""
        lead = (-1,) if self.copies == 1 else (-1, self.copies)
        views = self.views(rows)
        return [views[self._order.index(place)].unflatten(0, lead) for place in range(len(views))]

    def fill(self, rows: Tensor, tensors: Sequence[Tensor]) -> None:
        """Copy one tensor for each of `parameters`, [members, (copies,) ...], into `rows` [G, P]."""
        for place, tensor in zip(self.places(rows), tensors, strict=True):
            place.copy_(tensor.reshape(place.shape))
