"""The proof that a block may be left out: leave it out, run, and compare.

The network without it must compute what the dense network computes when nothing is added in the block's sums. Each
block by itself is proven in the smallest module that holds it, called as the network calls it, or else in the network;
there all are proven together, one half and then the other.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from autoprune.errors import first_line
from autoprune.inputs import Inputs, call, first, mapped, tensors
from autoprune.structure.dataflow import Record
from autoprune.structure.labels import UNCOUNTED, plain
from autoprune.structure.residual import Block
from autoprune.structure.scenes import EFFECT, TOLERANCE
from autoprune.structure.skipped import Skipped, leave_out, renumber


def absent(probe: nn.Module, example: Inputs, record: Record, blocks: Sequence[Block]) -> dict[int, str]:
    """Which of the blocks cannot be left out, by position, and why."""
    prover = _Prover(probe, first(example, 1), record)
    refuted = {at: why for at, block in enumerate(blocks) if (why := prover.alone(block))}
    halves = np.random.default_rng(0).permutation(len(blocks)) % 2 if len(blocks) > 1 else np.zeros(len(blocks))
    for half in (0, 1):
        kept = [at for at in range(len(blocks)) if halves[at] == half and at not in refuted]
        while kept and (why := prover.together([blocks[at] for at in kept])):
            wrong = next(at for n, at in enumerate(kept) if prover.together([blocks[one] for one in kept[: n + 1]]))
            refuted[wrong] = f"cannot be left out together with the blocks before it: {why}"
            kept.remove(wrong)
    return refuted


class _Prover:
    def __init__(self, probe: nn.Module, example: Inputs, record: Record) -> None:
        self._probe, self._example, self._record = probe, example, record
        self._dense = self._answers(probe, {})

    def alone(self, block: Block) -> str:
        """Why `block` cannot be left out, "" if it can: said in its own module, where that says nothing against it."""
        if block.home and not self._at_home(block):
            return ""
        return self.together([block])

    def together(self, blocks: Sequence[Block]) -> str:
        """Why these blocks cannot all be left out, "" if they can."""
        answers = {one.module: one.answer for block in blocks for one in block.skips}
        cut = {at: kept for block in blocks for at, kept in block.cut.items()}
        try:
            without = _without(self._probe, answers)
            renumber(without)
            found = self._answers(without, {})
        except Exception as wrong:  # whatever the network raises
            return f"without it the network fails: {first_line(wrong)}"
        return _compared(self._dense, self._answers(self._probe, cut), found)

    def _at_home(self, block: Block) -> str:
        home = self._probe.get_submodule(block.home)
        prefix = f"{block.home}."
        answers = {one.module.removeprefix(prefix): one.answer for one in block.skips}
        without = Skipped(answers[block.home], home) if block.home in answers else _without(home, answers)
        dense, ignored, found = list[Tensor](), list[Tensor](), list[Tensor]()
        for span in self._record.spans[block.home]:
            if span.kept is None:
                return "what it is called with cannot be copied"
            for into, module, cut in ((dense, home, {}), (ignored, home, block.cut), (found, without, {})):
                args, named = copy.deepcopy(span.kept)
                with torch.no_grad(), plain(), _Cutting(self._record, cut, span.first):
                    try:
                        into += _floats(module(*args, **named))
                    except Exception as wrong:  # whatever the module raises
                        return f"without it {block.home} fails: {first_line(wrong)}"
        return _compared(dense, ignored, found)

    def _answers(self, model: nn.Module, cut: Mapping[int, int]) -> list[Tensor]:
        example = mapped(self._example, Tensor.clone)
        with torch.no_grad(), plain(), _Cutting(self._record, cut, 0):
            return _floats(call(model, example))


class _Cutting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs as recorded from operator `start` on, but that sums of `cut` are what they keep."""

    def __init__(self, record: Record, cut: Mapping[int, int], start: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._record, self._cut, self._at = record, cut, start

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        at, self._at = self._at, self._at + (func is not UNCOUNTED)
        if at not in self._cut or func is UNCOUNTED:
            return func(*args, **dict(kwargs or {}))
        kept = args[0] if self._record.ran[at].operands[0] == self._cut[at] else args[1]
        if func.overloadpacket.__name__.endswith("_"):
            return args[0].copy_(kept)
        return kept.clone()


def _without(module: nn.Module, answers: Mapping[str, Any]) -> nn.Module:
    """A copy of `module`, with its own tensors, without some of its modules."""
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    made = copy.deepcopy(module, shared)
    leave_out(made, answers)
    return made


def _floats(outputs: Any) -> list[Tensor]:
    return [tensor for tensor in tensors(outputs) if tensor.is_floating_point()]


def _compared(dense: Collection[Tensor], ignored: Collection[Tensor], found: Collection[Tensor]) -> str:
    """What is wrong with what is `found`, against what is answered when sums are `ignored`."""
    if [tensor.shape for tensor in ignored] != [tensor.shape for tensor in found]:
        return "without it the answer has another size"
    largest = max((float(tensor.abs().max()) for tensor in dense if tensor.numel()), default=0.0)
    apart = max((float((a - b).abs().max()) for a, b in zip(ignored, found, strict=True) if a.numel()), default=0.0)
    effect = max((float((a - b).abs().max()) for a, b in zip(ignored, dense, strict=True) if a.numel()), default=0.0)
    if not apart <= TOLERANCE * largest:
        return f"without it the network computes something else (off by {apart / largest:.1e} of its output)"
    return "" if effect >= EFFECT * largest > 0 else "leaving it out changes nothing that could be seen"
