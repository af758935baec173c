"""From a dense network to the choices that it leaves, the edits that carry them out, and what everything costs.

The network runs once under `structure.labels`, on a copy: the network itself is never touched. Channels that must go
together become units, units that look alike a choice (`structure.clusters`). What the labels say is then *proven*,
choice by choice: a random part of the units is cut out, and the pruned network must compute what the dense network
computes when the next layers ignore those units. So are residual blocks, in `structure.skips`. What cannot be proven is
frozen and named with its reason, never guessed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from autoprune import inputs
from autoprune.copies import copied
from autoprune.errors import ConfigError, ModelError, first_line
from autoprune.inputs import Inputs
from autoprune.structure import accounts, attention, clusters, products, recurrent, sizes, training
from autoprune.structure.declared import Declared, Operator
from autoprune.structure.edits import Edit, Frozen, Resize, Slice, sliced
from autoprune.structure.labels import Flow, plain
from autoprune.structure.liveness import footprint
from autoprune.structure.proof import prove
from autoprune.structure.skips import Skips
from autoprune.values import people
from autoprune.values.space import Choice, levels_of
from autoprune.values.terms import Op
from autoprune.wrappers import bare

EXACT, SHAPES = "exact", "shapes"
NOT_ASKED = "is a choice of channels, which are not among the kinds of [space]"
BLOCKS = ("block", "branch")
CHANNELS = ("channel",)  # the kinds of choices that are looked for unless others are asked for


@dataclass(frozen=True)
class Trace:
    """All that is known of a network's structure.

    Attributes:
        choices: channels and then blocks, in order of execution; the levels are the numbers of units that may stay,
            mostly from 1 to all, of a block 0 and 1.
        edits: edits[i] are what a level of choices[i] does.
        ops: every operator that multiplies, with its MACs for one example; or that reads weights and whose MACs are not
            known.
        parameters: every parameter, with its elements.
        state: every parameter and buffer, with its bytes.
        blocks: the memory that a forward pass of one example holds; empty where declared layers hide it.
        frozen: what may not be pruned; a layer with parameters that is in no choice is here, with its reason.
        idle: for a block, by position, the operators of a forward pass that do not run where it is left out.
        resizes: the numbers that modules keep and that count units of choices.
        routed: modules, for people, whose MACs depend on the input's values; `ops` has those of the example.
        proofs: one a choice: "exact", or "shapes" where a normalisation over channels allows no more.
    """

    choices: tuple[Choice, ...]
    edits: tuple[tuple[Edit, ...], ...]
    ops: tuple[Op, ...]
    parameters: tuple[Op, ...]
    frozen: tuple[Frozen, ...]
    proofs: tuple[str, ...]
    state: tuple[Op, ...] = ()
    blocks: tuple[sizes.Block, ...] = ()
    idle: tuple[tuple[int, frozenset[int]], ...] = ()
    routed: tuple[str, ...] = ()
    resizes: tuple[Resize, ...] = ()

    @property
    def slices(self) -> tuple[tuple[Slice, ...], ...]:
        """Of the edits, those that take positions away."""
        return tuple(map(sliced, self.edits))

    @property
    def unpriced(self) -> tuple[str, ...]:
        """The operators whose MACs are not known, for people."""
        return tuple(op.name for op in self.ops if not op.known)

    def _repr_html_(self) -> str:
        """As notebooks show it."""
        free = [(c.name, c.kind, c.dense, f"free; proof {p}") for c, p in zip(self.choices, self.proofs, strict=True)]
        kept = [(f.name, "", f.units, f"frozen: it {f.reason}") for f in self.frozen]
        title = f"Trace: {people.counted(len(free), 'choice')}, {len(kept)} frozen"
        return people.table(title, ("layer", "kind", "units", "may it be pruned"), [*free, *kept], " ".join(self.notes))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of its costs must know."""
        return tuple(f"The MACs of {one} depend on the input: those of the example are counted." for one in self.routed)


def trace(
    model: nn.Module, example: Inputs, declared: Sequence[Operator] = (), kinds: Sequence[str] = CHANNELS
) -> Trace:
    """Trace and prove `model`, which stays as it is, on one batch, `example`.

    What `declared` operators and layers do to channels is taken from them. `kinds` are those of choices that are looked
    for: "channel"; "block", whole residual blocks; "branch", what is added in each of their sums apart.

    Raises ModelError where the network cannot be copied, fails on the example, or has nothing that could be pruned, and
    ConfigError for a declaration of what it has not.
    """
    model, example = bare(model), inputs.moved(inputs.moved(example, "cpu"), torch.float32)
    probe = _probe(model)
    outputs, flow = _run(probe, inputs.first(example, 1), known := Declared(declared))
    flow.pin_outputs(outputs)
    routed = tuple(dict.fromkeys(flow.routed.words))
    learning = training.followed(probe, example, flow, known)
    found = clusters.cluster(flow, probe, recurrent.least(probe))
    least = [group.levels[0] for group in found.groups]
    resizes = tuple(one for group in found.resizes for one in group)
    if "channel" in kinds:
        refuted = prove(probe, example, found.cuts, found.weak, least, learning, resizes)
    else:
        refuted = dict.fromkeys(range(len(found.groups)), NOT_ASKED)
    kept = [i for i in range(len(found.groups)) if i not in refuted]
    channels = clusters.with_roles(flow, [found.groups[i] for i in kept], [found.cuts[i] for i in kept])
    cuts, unit_of, first = [found.cuts[i] for i in kept], found.group_of_node(kept), len(kept)
    skips = Skips(probe, example, flow, kinds)
    frozen = accounts.frozen(flow, found, refuted, skips.layers if "channel" not in kinds else frozenset())
    if not kept and not skips.blocks:
        raise ModelError(f"nothing in this network can be pruned: {_why(frozen, kinds)}")
    held = [] if known.layers else footprint(probe, example)
    ops = skips.operators(sizes.operators(flow, unit_of, channels), first)
    return Trace(
        choices=skips.choices(channels, cuts),
        edits=(*cuts, *skips.edits),
        ops=(*ops, *accounts.unpriced(flow)),
        parameters=tuple(skips.tensors(sizes.parameters(flow, unit_of, channels), first)),
        frozen=frozen,
        proofs=(*(SHAPES if i in found.weak else EXACT for i in kept), *(EXACT for _ in skips.blocks)),
        state=tuple(skips.tensors(sizes.state(flow, model, unit_of, channels), first)),
        blocks=tuple(skips.memory(sizes.blocks(flow, held, unit_of, channels), held, first)),
        idle=tuple((first + at, block.gone) for at, block in enumerate(skips.blocks)),
        routed=routed,
        resizes=tuple(one for i in kept for one in found.resizes[i]),
    )


def _why(frozen: Sequence[Frozen], kinds: Sequence[str]) -> str:
    """Why nothing can be pruned."""
    if "channel" not in kinds:
        return f"it has no residual block that could be left out (kinds = {', '.join(kinds)})"
    said = "; ".join(f"{f.name}: {f.reason}" for f in frozen[:3])
    return said or "it has no convolution or linear layer that another reads"


def _probe(model: nn.Module) -> nn.Module:
    """A copy in eval mode with random weights: in general position, so that no unit is dead and no two are alike."""
    try:
        probe = copied(model).cpu().float().eval()
    except (RuntimeError, TypeError) as wrong:
        raise ModelError(
            f"the network cannot be copied ({first_line(wrong)}); keep computed tensors out of its attributes"
        ) from None
    attention.prunable(probe)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in probe.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() >= 2:
                parameter.copy_(noise * math.sqrt(2.0 / max(1, parameter[0].numel())))
            else:
                parameter.copy_(0.6 + 0.1 * noise)
        for name, buffer in probe.named_buffers():
            if buffer.is_floating_point() and name.endswith(("running_mean", "running_var")):
                centre = 0.0 if name.endswith("mean") else 1.0
                buffer.copy_(centre + 0.2 * torch.rand(buffer.shape, generator=generator))
    return probe


def _run(probe: nn.Module, example: Inputs, declared: Declared) -> tuple[object, Flow]:
    try:
        flow = Flow(probe, declared.handler, products.scales, products.geometry)
        with plain(), declared.watching(probe, flow), flow.watching(probe, example):
            return inputs.call(probe, example), flow
    except ConfigError:
        raise
    except Exception as wrong:
        raise ModelError(
            f"the network fails on its example of shape {inputs.shapes(example)}: {first_line(wrong)}"
        ) from wrong


def restrict(choice: Choice, *, max_sparsity: float, step: int) -> Choice:
    """`choice` with at most `max_sparsity` of its units removed, kept in multiples of `step` channels.

    A unit of several channels (a group of a grouped convolution) counts as that many. Zero `max_sparsity` freezes.
    """
    lowest = min(max(choice.levels[0], math.ceil(choice.dense * (1.0 - max_sparsity) - 1e-9)), choice.dense)
    return dataclasses.replace(choice, levels=levels_of(choice.dense, lowest, step // math.gcd(step, choice.width)))
