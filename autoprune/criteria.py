"""How much a unit of a group matters. Each criterion is a pure function of the units; the larger scores stay longer.

`Units` shows a criterion the weights of one group, one row a unit, gathered with the index tables of the trace. What is
dear to gather (coupled weights, gradients) is there only for a criterion that asks for it with `@needs`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from itertools import islice

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.modules.batchnorm import _NormBase

from autoprune.addresses import is_theirs, told
from autoprune.copies import copied
from autoprune.errors import AutopruneError, ConfigError, ModelError
from autoprune.inputs import call, device_of, moved
from autoprune.protocols import Criterion, Needs, Units
from autoprune.structure.edits import Slice
from autoprune.structure.trace import Trace
from autoprune.task import Task, loss_of
from autoprune.values.space import Choice

OPTIONAL = tuple(field.name for field in dataclasses.fields(Units) if field.default is None)
CALIBRATION = (16, 32)  # batches, and images in each, that gradients are collected on


def needs(*fields: str) -> Callable[[Criterion], Criterion]:
    """Say which optional fields of `Units` a criterion reads, so that they are filled in.

    Raises ConfigError for one that there is not.
    """

    def mark(criterion: Criterion) -> Criterion:
        criterion.needs = frozenset(fields)  # type: ignore[attr-defined]  # now it is a `Needs`
        needed(criterion)
        return criterion

    return mark


def needed(criterion: Criterion) -> frozenset[str]:
    """The optional fields of `Units` that `criterion` reads. Raises ConfigError for one that there is not."""
    asked = frozenset(criterion.needs) if isinstance(criterion, Needs) else frozenset()
    if unknown := sorted(asked - set(OPTIONAL)):
        known = ", ".join(map(repr, OPTIONAL))
        raise ConfigError(f"criterion {_name(criterion)!r} needs {unknown[0]!r} of its units; there are {known}")
    return asked


def _name(criterion: Criterion) -> str:
    return getattr(criterion, "__name__", type(criterion).__name__)


@needs("generator")
def random(units: Units) -> Tensor:
    """Chance: the yardstick that every other criterion must beat."""
    return torch.rand(len(units), generator=units.generator)


def l1(units: Units) -> Tensor:
    """Sum of magnitudes of the producing weights. Li et al. 2017, https://arxiv.org/abs/1608.08710."""
    return units.weight.abs().sum(1)


def l2(units: Units) -> Tensor:
    """Euclidean norm of the producing weights."""
    norm: Tensor = vector_norm(units.weight, dim=1)
    return norm


@needs("coupled")
def group_norm(units: Units) -> Tensor:
    """Euclidean norm of all weights that leave with the unit. Fang et al. 2023, https://arxiv.org/abs/2301.12900."""
    norm: Tensor = vector_norm(_present(units.coupled, "coupled"), dim=1)
    return norm


@needs("scale")
def bn_scale(units: Units) -> Tensor:
    """Magnitude of the BatchNorm gammas behind the unit. Liu et al. 2017, https://arxiv.org/abs/1708.06519."""
    return _present(units.scale, "scale").abs().sum(1)


def fpgm(units: Units) -> Tensor:
    """Distance to all other units: what others can replace goes first. He et al. 2019, https://arxiv.org/abs/1811.00250."""
    rows = units.weight.double()
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").sum(1).float()


@needs("coupled", "grad")
def taylor(units: Units) -> Tensor:
    """Squared first-order changes of the loss without each weight. Molchanov et al. 2019, https://arxiv.org/abs/1906.10771.

    Their equation 8, over all weights that leave with the unit.
    """
    return (_present(units.coupled, "coupled") * _present(units.grad, "grad")).square().sum(1)


def _present(field: Tensor | None, name: str) -> Tensor:
    if field is None:
        raise ConfigError(f"a criterion reads Units.{name} without asking for it; decorate it with @needs({name!r})")
    return field


def scores(model: nn.Module, trace: Trace, criterion: Criterion, *, task: Task | None, seed: int) -> list[Tensor]:
    """One score a unit for every choice of `trace`, on the CPU; `model` is only read.

    Raises ConfigError where the criterion needs what a group lacks, or returns anything but one finite number a unit.
    """
    fields = needed(criterion)
    gradients = collect_gradients(model, task, seed) if task and "grad" in fields else {}
    generator = torch.Generator().manual_seed(seed)

    def score(i: int, choice: Choice) -> Tensor:
        if not trace.slices[i]:  # a block is one unit, and needs no order
            return torch.ones(choice.dense)
        units = units_of(model, trace, i, fields, gradients, generator)
        try:
            found = criterion(units)
        except Exception as wrong:  # whatever a user's own raises
            if isinstance(wrong, AutopruneError) or not is_theirs(wrong):
                raise
            raise ConfigError(
                f"criterion {_name(criterion)!r} fails on {choice.name!r} ({told(wrong)}){_unasked(wrong, units)}"
            ) from wrong
        return _checked(found, criterion, choice.name, units)

    return [score(i, choice) for i, choice in enumerate(trace.choices)]


def units_of(
    model: nn.Module,
    trace: Trace,
    i: int,
    fields: Collection[str] = (),
    gradients: Mapping[str, Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Units:
    """The units of group `i` as a criterion that needs `fields` sees them."""
    tensors = {name: p.detach() for name, p in model.named_parameters(remove_duplicate=False)}
    cuts = [cut for cut in trace.slices[i] if cut.tensor in tensors]
    weights = [cut for cut in cuts if tensors[cut.tensor].dim() > 1] or cuts
    produced = [cut for cut in weights if cut.role == "out"] or weights
    return Units(
        weight=_rows(tensors, produced),
        coupled=_rows(tensors, weights) if "coupled" in fields else None,
        scale=_rows(tensors, _gammas(model, cuts, trace.choices[i].name)) if "scale" in fields else None,
        grad=_rows(gradients or {}, weights) if "grad" in fields else None,
        generator=generator if "generator" in fields else None,
    )


def collect_gradients(model: nn.Module, task: Task, seed: int) -> dict[str, Tensor]:
    """The root mean square gradient of the loss by name of the parameter, over random training batches, in eval mode.

    Works on a copy: gradients, flags and mode of `model` stay as they are.
    """
    twin = copied(model).eval().requires_grad_(True)
    named = dict(twin.named_parameters(remove_duplicate=False))
    device = device_of(twin)
    count, size = CALIBRATION
    batches = list(islice(task.train.shuffled(size, torch.Generator().manual_seed(seed)), count))
    total = {name: torch.zeros_like(p) for name, p in named.items()}
    for inputs, targets in batches:
        with torch.enable_grad():
            loss = loss_of(task.loss, call(twin, moved(inputs, device)), moved(targets, device))
        found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        for name, gradient in zip(named, found):
            if gradient is not None:
                total[name] += gradient.square() / len(batches)
    return {name: square.sqrt() for name, square in total.items()}


def _rows(tensors: Mapping[str, Tensor], cuts: Collection[Slice]) -> Tensor:
    """What `cuts` take from `tensors`, one row a unit: (units, everything that leaves with it)."""
    return torch.cat([_taken(tensors[cut.tensor], cut) for cut in cuts], dim=1)


def _taken(tensor: Tensor, cut: Slice) -> Tensor:
    index = torch.from_numpy(cut.index).to(tensor.device)  # (units, m)
    return tensor.index_select(cut.dim, index.flatten()).movedim(cut.dim, 0).reshape(len(index), -1).float().cpu()


def _gammas(model: nn.Module, cuts: Collection[Slice], group: str) -> list[Slice]:
    owners = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, _NormBase)}
    found = [cut for cut in cuts if cut.tensor in owners]
    if not found:
        raise ConfigError(
            f"bn_scale needs a BatchNorm behind {group!r}, which has none; use 'group_norm' or 'l2' instead"
        )
    return found


def _unasked(wrong: Exception, units: Units) -> str:
    """What is to be said of fields that are not there, where what was raised was raised by None."""
    empty = [field for field in OPTIONAL if getattr(units, field) is None]
    if "NoneType" not in str(wrong) or not empty:
        return ""
    return f"; {', '.join(empty)} of its units are None unless @needs(...) asks for them"


def _checked(found: object, criterion: Criterion, group: str, units: Units) -> Tensor:
    """One finite number a unit."""
    name = _name(criterion)
    if not isinstance(found, Tensor) or found.is_complex():
        kind = f"a tensor of {found.dtype}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise ConfigError(f"criterion {name!r} gave {kind} for {group!r}; a tensor of {len(units)} numbers is needed")
    if found.shape != (len(units),):
        shape = tuple(found.shape)
        raise ConfigError(f"criterion {name!r} gave shape {shape} for {group!r}; ({len(units)},) is needed")
    if not found.isfinite().all():
        if not units.weight.isfinite().all():
            raise ModelError(f"weights of {group!r} are NaN or infinite; criterion {name!r} cannot rank its units")
        raise ConfigError(f"criterion {name!r} gave NaN or infinity for {group!r}, whose weights are finite")
    return found
