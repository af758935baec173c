"""The weight of a layer on the channels that stay which comes nearest to what it computed with all of them.

Columns R that leave are taken over by columns K that behave alike. With W the weight, M the second moments of the
columns and G = M + ridge x M's mean diagonal, the solution is W_K + W_R G_RK inv(G_KK): least squares with a ridge
towards W. Where none leave, nothing changes.

Units leave in one order, the least important first. So what stays of a layer behind one group is the beginning of that
order, and as the leading block of a Cholesky factor is the factor of the leading block, one factorisation serves every
policy: with G = L L^T in that order, the solution is (W L)_K inv(L_KK).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from autoprune.errors import TrialFailed
from autoprune.evaluators.recovery.columns import Moments
from autoprune.values.ranges import Range

Ridge = Annotated[float, Range(0, 1e6, above=True)]  # settings of evaluators
Positions = Annotated[int, Range(1, 1_000_000)]
Columns = Annotated[int, Range(1, 65_536)]
Solution = tuple[Tensor, Tensor]  # a weight (outputs, kept channels, positions), and what to add to the bias (outputs,)


def solve(weight: Tensor, stay: Tensor, moments: Moments, ridge: float) -> Solution:
    """The solution on any channels.

    Args:
        weight: (outputs, channels, positions), of the dense layer.
        stay: (channels,), bool.
        moments: of the layer's columns.
        ridge: relative to the mean square of a column, > 0.

    Returns float64. Raises TrialFailed where the columns are too alike.
    """
    weight, mean = weight.double(), moments.mean.double()
    rows = _rows(weight, moments)
    mask = stay if moments.shared else stay.repeat_interleave(weight.shape[2])
    kept, gone = mask.nonzero()[:, 0], (~mask).nonzero()[:, 0]
    gram = moments.gram[kept].double()  # (kept, d)
    factor = _factor(gram[:, kept], moments, ridge)
    taken_over = torch.cholesky_solve(gram[:, gone] @ rows[:, gone].T, factor).T
    change = _grid(taken_over, len(weight), len(moments.gram) // weight.shape[1])
    lost = weight[:, ~stay].flatten(1) @ mean[~stay].flatten() - change.flatten(1) @ mean[stay].flatten()
    return weight[:, stay] + change, lost


@dataclass(frozen=True)
class Leading:
    """The solutions on the first channels of an order, however many.

    Attributes:
        order: (channels,), those first that stay longest.
        factor: (d, d), L of the columns in that order; d as in `Moments`.
        goal: (outputs [x positions], d), W L.
        mean: (channels, positions), of the columns in that order.
        output: (outputs,), the mean that the layer adds to its bias.
    """

    order: Tensor
    factor: Tensor
    goal: Tensor
    mean: Tensor
    output: Tensor

    @property
    def shared(self) -> bool:
        """As of `Moments`."""
        return len(self.factor) < self.mean.numel()

    @classmethod
    def of(cls, weight: Tensor, order: Tensor, moments: Moments, ridge: float) -> Leading:
        """Factorise, once; the arguments are those of `solve`. What is kept is in the precision of `weight`."""
        width = len(moments.gram) // len(order)
        columns = (order[:, None] * width + torch.arange(width, device=order.device)).flatten()
        factor = _factor(moments.gram[columns][:, columns].double(), moments, ridge)
        goal = _rows(weight, moments)[:, columns].double() @ factor
        mean = moments.mean.to(weight.dtype)
        output = weight.flatten(1) @ mean.flatten()
        return cls(order, factor.to(weight.dtype), goal.to(weight.dtype), mean[order], output)

    def solve(self, stay: Tensor, outputs: Tensor) -> Solution:
        """On the channels that `stay`, (channels,) bool, which must be the first; for the `outputs` that do, too."""
        channels = self.order[: int(stay.sum())]
        width = len(self.factor) // len(self.order)
        count = len(channels) * width
        goal = self.goal.view(len(outputs), -1, len(self.factor))[outputs, :, :count].flatten(0, 1)
        found = torch.linalg.solve_triangular(self.factor[:count, :count], goal, upper=False, left=False)
        grid = _grid(found, int(outputs.sum()), width)
        lost = self.output[outputs] - grid.flatten(1) @ self.mean[: len(channels)].flatten()
        return grid[:, channels.argsort()], lost


def _rows(weight: Tensor, moments: Moments) -> Tensor:
    """(outputs [x positions], d): what multiplies columns that have one Gram matrix."""
    return weight.transpose(1, 2).flatten(0, 1) if moments.shared else weight.flatten(1)


def _grid(rows: Tensor, outputs: int, width: int) -> Tensor:
    """(outputs, channels, positions) again; `width` columns a channel have a Gram matrix together."""
    if width > 1:
        return rows.view(outputs, -1, width)
    return rows.view(outputs, -1, rows.shape[1]).transpose(1, 2)


def _factor(gram: Tensor, moments: Moments, ridge: float) -> Tensor:
    """Cholesky's L of `gram`, a part of that of `moments`, with the ridge."""
    gram.diagonal().add_(max(ridge * float(moments.gram.diagonal().mean()), 1e-12))
    factor, wrong = torch.linalg.cholesky_ex(gram)
    if wrong:
        raise TrialFailed(f"the inputs of a layer are too alike to solve for its weight; ridge={ridge} is too small")
    return factor  # type: ignore[no-any-return]
