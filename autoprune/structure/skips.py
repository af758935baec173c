"""Blocks that can be left out, as choices, and what costs become with them: what leaves with a block is gated by it."""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property

from torch import Tensor, nn

from autoprune import inputs
from autoprune.inputs import Inputs
from autoprune.structure import residual, sizes
from autoprune.structure.absence import absent
from autoprune.structure.dataflow import Record, recorded
from autoprune.structure.edits import Skip, Slice
from autoprune.structure.labels import Flow
from autoprune.structure.liveness import Held
from autoprune.structure.prune import leaving
from autoprune.structure.residual import Block
from autoprune.structure.skipped import inside
from autoprune.values.space import Choice
from autoprune.values.terms import Extent, Op

_TOKENS = 32  # of the texts on which blocks are proven


class Skips:
    """The blocks of a network that can be left out, proven."""

    def __init__(self, probe: nn.Module, example: Inputs, flow: Flow, kinds: Sequence[str]) -> None:
        """Look for blocks where `kinds` ask for them; `flow` has seen `probe` run on the first of `example`."""
        self._probe, self._flow = probe, flow
        self._kind = "branch" if "branch" in kinds else "block" if "block" in kinds else ""
        self._record, self.blocks = Record(), list[Block]()
        if self._kind:
            self._record = recorded(probe, example)
            working = frozenset(work.number for work in flow.work)
            found = residual.blocks(probe, self._record, parts=self._kind == "branch", working=working)
            found = [block for block in found if not self._shared(block)]
            refuted = self._refuted(example, found)
            self.blocks = [block for at, block in enumerate(found) if at not in refuted]

    def _refuted(self, example: Inputs, found: Sequence[Block]) -> dict[int, str]:
        """Which cannot be left out, and why: seen on short texts, where the network does the same with them."""
        keep = {block.home for block in found}
        for given in (inputs.mapped(example, _short), example):
            try:
                record = recorded(self._probe, given, keep)
            except Exception:  # what a network of another length raises
                continue
            if [ran.op for ran in record.ran] == [ran.op for ran in self._record.ran]:
                return absent(self._probe, given, record, found)
        return dict.fromkeys(range(len(found)), "the network does something else each time")

    @property
    def edits(self) -> tuple[tuple[Skip, ...], ...]:
        """Of each block."""
        return tuple(block.skips for block in self.blocks)

    @property
    def layers(self) -> frozenset[str]:
        """All that leave with a block."""
        return frozenset(layer for block in self.blocks for layer in residual.layers(self._probe, block))

    def choices(self, channels: Sequence[Choice], cuts: Sequence[Sequence[Slice]]) -> tuple[Choice, ...]:
        """The choices of channels, each with the block that it lies in, and then the blocks."""
        own = residual.choices(self._probe, self.blocks, self._kind, [choice.name for choice in channels])
        smallest = sorted(range(len(own)), key=lambda at: len(self.blocks[at].gone))

        def block(tables: Sequence[Slice]) -> str:
            around = (at for at in smallest if self._leave[at].issuperset(one.tensor for one in tables))
            return next((own[at].name for at in around), "")

        pairs = zip(channels, cuts, strict=True)
        return (*(dataclasses.replace(c, within=block(tables)) for c, tables in pairs), *own)

    def operators(self, ops: Iterable[Op], first: int) -> Iterator[Op]:
        """Those that multiply, in the order in which they ran; the blocks' choices begin at position `first`."""
        for op, work in zip(ops, self._flow.work, strict=True):
            yield self._gated(op, (at for at, block in enumerate(self.blocks) if work.number in block.gone), first)

    def tensors(self, ops: Iterable[Op], first: int) -> Iterator[Op]:
        """Parameters or buffers, by name."""
        for op in ops:
            yield self._gated(op, (at for at, names in enumerate(self._leave) if op.name in names), first)

    def memory(self, blocks: Iterable[sizes.Block], held: Sequence[Held], first: int) -> Iterator[sizes.Block]:
        """What a forward pass holds; where a block is left out, what it would read is held in place of its answer."""
        found = list(blocks)
        for block, one in zip(found, held, strict=True):
            gates = (at for at, block in enumerate(self.blocks) if one.call in block.gone)
            yield dataclasses.replace(block, size=self._gated(block.size, gates, first))
        place = {one.call: at for at, one in reversed(list(enumerate(held)))}
        for at, skipped in enumerate(self.blocks):
            for answer, source in skipped.handed:
                if (made := place.get(self._maker(answer), -1)) >= 0:
                    for before, signs in self._handed_from(source, held, place, (at,)):
                        extents = tuple(Extent(int(sign < 0), ((first + one, sign),)) for one, sign in signs)
                        size = dataclasses.replace(found[made].size, extents=(*found[made].size.extents, *extents))
                        yield sizes.Block(size, before + 1, max(held[made].gone, before))

    def _handed_from(
        self, source: int, held: Sequence[Held], place: Mapping[int, int], without: tuple[int, ...], least: int = 0
    ) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """When what is handed on through the blocks `without` is else let go of, and the gates of that: block, sign.

        It is `source`, or where the block that answers that is left out, too, what was handed to that one.
        """
        kept = place.get(self._maker(source), -1)
        until = max(held[kept].gone, least) if kept >= 0 else sys.maxsize  # inputs are held by whoever calls
        maker = self._answering.get(source)
        gates = [(one, -1) for one in without]
        yield until, gates if maker is None else [*gates, (maker[0], 1)]
        if maker is not None:
            yield from self._handed_from(maker[1], held, place, (*without, maker[0]), until)

    @cached_property
    def _answering(self) -> dict[int, tuple[int, int]]:
        """By the value that a block answers, the block and what is handed to it."""
        return {answer: (at, source) for at, block in enumerate(self.blocks) for answer, source in block.handed}

    def _maker(self, value: int) -> int:
        """The operator that made the memory of `value`."""
        return self._record.made_by[self._record.memory[value]]

    @staticmethod
    def _gated(op: Op, gates: Iterable[int], first: int) -> Op:
        """`op` times the level of each of the blocks `gates`."""
        more = tuple(Extent(0, ((first + at, 1),)) for at in gates)
        moves = tuple(dataclasses.replace(one, extents=(*one.extents, *more)) for one in op.moves)
        return dataclasses.replace(op, extents=(*op.extents, *more), moves=moves) if more else op

    @cached_property
    def _leave(self) -> list[frozenset[str]]:
        """By block, the tensors that it takes along."""
        return [leaving(self._probe, block.modules) for block in self.blocks]

    def _shared(self, block: Block) -> bool:
        """Whether a parameter of the block is one of another module, too."""
        named = list(self._probe.named_parameters(remove_duplicate=False))
        own = Counter(id(tensor) for name, tensor in named if inside(name, block.modules))
        every = Counter(id(tensor) for _, tensor in named)
        return any(every[one] > count for one, count in own.items())


def _short(tensor: Tensor) -> Tensor:
    """The first tokens of a text; what is none, as it is."""
    return tensor[:, :_TOKENS] if tensor.dim() == 2 and not tensor.is_floating_point() else tensor
