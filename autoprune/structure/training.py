"""What a network reads in training mode only, such as an auxiliary head: it is pruned with the rest, or nothing is.

Normalisation and dropout stay as they are in evaluation, so that the answers can be compared; everything else is told
that it is trained.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from autoprune import inputs
from autoprune.copies import copied
from autoprune.inputs import Inputs
from autoprune.structure.declared import Declared
from autoprune.structure.labels import Flow, plain

_LISTS = ("joins", "pins", "produced", "consumed", "renormalised")
_COSTS = ("work", "made", "uncounted")  # what it costs is counted in evaluation


@dataclass(frozen=True)
class Training:
    """A network in training mode.

    Attributes:
        probe: the network; its weights are its own.
        reads: the parameters and buffers that are not read in evaluation.
    """

    probe: nn.Module
    reads: frozenset[str]


def followed(probe: nn.Module, example: Inputs, flow: Flow, declared: Declared) -> Training | None:
    """Run `probe` in training mode under `flow`, which has seen it in evaluation; None where that shows nothing more.

    A network that needs more than its inputs in training fails here; what it does then is not known.
    """
    before, names = set(flow.used), {name for name, _ in probe.named_parameters()}
    if names <= before:
        return None
    counts = {what: len(getattr(flow, what)) for what in (*_LISTS, *_COSTS)}
    try:
        with inputs.evaluating(probe):
            _train(probe)
            with plain(), declared.watching(probe, flow), flow.watching(probe, example):
                flow.pin_outputs(inputs.call(probe, inputs.first(example, 1)))
            seen = copied(probe)
    except Exception:
        flow.used = before
    found = flow.used - before
    for what in _COSTS if found else (*_LISTS, *_COSTS):
        del getattr(flow, what)[counts[what] :]
    return Training(seen, frozenset(found)) if found else None


def _train(probe: nn.Module) -> None:
    for module in probe.modules():
        module.training = not isinstance(module, _NormBase | _DropoutNd)
