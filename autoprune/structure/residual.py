"""Residual blocks, x + f(x), that can be left out: f goes with its modules, and nothing else notices.

A sum of two values of which one is made of the other is a residual connection. Where all sums of a module are cut off
from what was added, and nothing but x comes through the module, the whole module is a block: a transformer layer, a
block of a ResNet without a projection. Apart, each sum has a branch: the modules of which nothing is read but by what
is added. What is found is proven afterwards, by `structure.absence`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from autoprune.structure.dataflow import Record, Span, strange
from autoprune.structure.edits import Skip, layer_of
from autoprune.structure.skipped import Answer, inside
from autoprune.values.space import Choice

_HARMLESS = ("relu", "hardtanh", "clone", "alias", "view", "_unsafe_view", "_to_copy")  # x may pass them in a block


@dataclass(frozen=True)
class Block:
    """A block that can be left out.

    Attributes:
        name: of the module, or of the largest of the modules.
        home: a module that holds the sums and all that leaves; "" is the network.
        cut: of each sum, an operator by position, the value that is kept.
        skips: what stands in the place of each module.
        gone: the operators that do not run any more, by position.
        handed: where x comes through as the answer, pairs of that and of x, values both.
    """

    name: str
    home: str
    cut: dict[int, int]
    skips: tuple[Skip, ...]
    gone: frozenset[int]
    handed: tuple[tuple[int, int], ...] = ()

    @property
    def modules(self) -> frozenset[str]:
        """The modules that leave, by name."""
        return frozenset(one.module for one in self.skips)


def blocks(model: nn.Module, record: Record, *, parts: bool, working: frozenset[int]) -> list[Block]:
    """The residual blocks of `model` in order of execution; with `parts`, the branches of each sum apart.

    `working` are the operators that multiply, by position.
    """
    found = dict[frozenset[str], Block]()
    for home, sums in _sums(record).items():
        whole = _whole(record, home, sums) if home else None
        if whole and (not parts or len(sums) == 1):
            found.setdefault(whole.modules, whole)
        elif parts:
            for one in sums:
                if (branch := _branch(model, record, home, {one: sums[one]}, working)) is not None:
                    found.setdefault(branch.modules, branch)
    return list(found.values())


def _sums(record: Record) -> dict[str, dict[int, int]]:
    """By the innermost module around it, every sum x + f(x), by position, with the value x."""
    live, found = record.live(), dict[str, dict[int, int]]()
    for at, ran in enumerate(record.ran):
        if ran.op == "add" and ran.plain and len(ran.operands) == 2 and at in live and not ran.weighs:
            left, right = ran.operands
            kept = left if record.ancestors[right] >> left & 1 else right if record.ancestors[left] >> right & 1 else -1
            if kept >= 0:
                found.setdefault(ran.module, {})[at] = kept
    return found


def _whole(record: Record, home: str, sums: dict[int, int]) -> Block | None:
    """The module `home` as a block; None where more than x comes through it."""
    spans, inner = record.spans.get(home, []), record.within(home)
    live = record.live(sums)
    if any(at not in sums and record.ran[at].op not in _HARMLESS for at in live & inner):
        return None
    answers, handed = [], list[tuple[int, int]]()
    for span in spans:
        answers.append(_answer(record, span, sums, live, handed))
    if not answers or len(set(answers)) > 1 or answers[0] is None or not handed:
        return None
    return Block(home, home, sums, (Skip(home, answers[0]),), frozenset(inner), tuple(handed))


def _answer(record: Record, span: Span, sums: dict[int, int], live: set[int], handed: list[tuple[int, int]]) -> Answer:
    """What stands for the answer of `span`; None where that cannot be said. What is `handed` on is added to that."""
    arguments = {value: key for key, value in span.given.items()}
    lost = False

    def made(answer: object) -> Answer:
        nonlocal lost
        if isinstance(answer, tuple):
            return "tuple", tuple(map(made, answer))
        if answer is None:
            return None
        if isinstance(answer, int) and (source := _source(record, answer, span, sums)) in arguments:
            handed.append((answer, source))
            return "pass", arguments[source]
        lost = lost or answer is strange or not span.floats or any(
            answer in record.ran[at].operands for at in live if not span.first <= at < span.last
        )  # fmt: skip
        return ("zero", span.floats[0]) if span.floats else None

    found = made(span.answers)
    return None if lost else found


def _source(record: Record, value: int, span: Span, sums: dict[int, int]) -> int:
    """What `value` is without what is added: followed back through the operators of `span`."""
    while span.first <= (at := record.made_by[value]) < span.last:
        if at in sums:
            value = sums[at]
        elif record.ran[at].op in _HARMLESS:
            value = record.ran[at].operands[0]
        else:
            return value
    return value


def _branch(model: nn.Module, record: Record, home: str, cut: dict[int, int], working: frozenset[int]) -> Block | None:
    """What is added in one sum; None where it does more than that, or works outside of any module."""
    live = record.live(cut)
    gone = record.live() - live
    modules = list(_outermost(name for name in record.spans if (ran := record.within(name)) and not ran & live))
    modules = [name for name in modules if record.within(name) & gone]
    dead = {at for name in modules for at in record.within(name)}
    if not modules or any(record.ran[at].weighs or at in working for at in gone - dead):
        return None
    skips = []
    for name in modules:
        answers = {_stub(span) for span in record.spans[name]}
        if len(answers) > 1 or (answer := answers.pop()) is None:
            return None
        skips.append(Skip(name, answer))
    sizes = {name: sum(p.numel() for p in model.get_submodule(name).parameters()) for name in modules}
    largest = max(modules, key=lambda name: sizes[name])
    while home and not all(inside(name, {home}) for name in modules):
        home = home.rpartition(".")[0]
    while home and home not in record.spans:  # a list of modules is not called
        home = home.rpartition(".")[0]
    return Block(largest, home, cut, tuple(skips), frozenset(gone | dead)) if sizes[largest] else None


def _outermost(names: Iterable[str]) -> Iterator[str]:
    """Those that lie in no other."""
    every = frozenset(names)
    return (name for name in sorted(every) if not inside(name.rpartition(".")[0], every))


def _stub(span: Span) -> Answer:
    """Zeros for all that `span` answers, but for what was handed to it."""
    arguments = {value: key for key, value in span.given.items()}

    def made(answer: object) -> Answer:
        if isinstance(answer, tuple):
            return "tuple", tuple(map(made, answer))
        if isinstance(answer, int):
            return ("pass", arguments[answer]) if answer in arguments else ("zero", span.floats[0])
        return None

    usual = span.answers is not strange and span.floats and not (
        isinstance(span.answers, tuple) and strange in span.answers
    )  # fmt: skip
    return made(span.answers) if usual else None


def layers(model: nn.Module, block: Block) -> tuple[str, ...]:
    """The layers with parameters that leave with `block`."""
    owners = dict.fromkeys(layer_of(name) for name, _ in model.named_parameters(remove_duplicate=False))
    return tuple(layer for layer in owners if inside(layer, block.modules))


def choices(model: nn.Module, found: Sequence[Block], kind: str, taken: Collection[str]) -> tuple[Choice, ...]:
    """The blocks as choices of that kind, with names that are not `taken`."""
    largest = max((_parameters(model, block) for block in found), default=0) or 1
    names = {block.modules: f"{block.name}#block" if block.name in taken else block.name for block in found}
    made = []
    for block in found:
        around = [other for other in found if _holds(other, block)]
        outer = names[min(around, key=lambda other: len(other.gone)).modules] if around else ""
        role = (_parameters(model, block) / largest, 0.0, 0.0, 0.0, 0.0, 0.0)
        made.append(Choice(names[block.modules], (0, 1), kind, outer, layers(model, block), role))
    return tuple(made)


def _holds(outer: Block, inner: Block) -> bool:
    return all(inside(name, outer.modules) for name in inner.modules) and outer.modules != inner.modules


def _parameters(model: nn.Module, block: Block) -> int:
    return sum(p.numel() for name in block.modules for p in model.get_submodule(name).parameters())
