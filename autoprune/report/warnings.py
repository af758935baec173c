"""What went wrong with a search, a sentence each: said as soon as it is known, and in the report.

The failure modes are those that surveys of pruning name: layers that collapse, that are cut too far or out of
proportion, hardware that does not care, and scores that say nothing. That a finetune did harm is said by the finetune.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Sequence

from autoprune.report import words
from autoprune.report.facts import Report

_FEW, _SMALL = 0.06, 16  # of a choice with at least so many units, what is left of a layer that collapsed
_UNEVEN = 0.33  # standard deviation of sparsities, each in [0, 1]
_MOST = 0.5  # of all that choices lose alone
_HEEDED = 0.3  # of what MACs fall by, by how much latency should
_NEAR = 0.1  # of the way from a guess to the dense network


def warned(r: Report) -> Report:
    """`r` with all that is to be said of it."""
    said = (*of_policy([c.name for c in r.choices], r.final.kept, [c.of for c in r.choices]), *of_end(r))
    chance, dense, found = r.detail.chance, r.dense.searched, r.final.searched
    if chance is not None and dense is not None and found is not None:
        said = (*near_chance(r.metric_name, found, dense, chance), *said)
    return dataclasses.replace(r, detail=dataclasses.replace(r.detail, warnings=said))


def of_policy(names: Sequence[str], kept: Sequence[int], of: Sequence[int]) -> Iterator[str]:
    """Layer collapse, and imbalance between layers: what `kept` units `of` each choice say."""
    for name, left, whole in zip(names, kept, of, strict=True):
        if whole >= _SMALL and left <= max(1, _FEW * whole):
            floor = max(2, whole // 8)
            yield f"Layer collapse: {name} keeps {left} of {whole} units; {_rule(name, floor)} keeps more."
    sparsity = [1 - left / whole for left, whole in zip(kept, of, strict=True)]
    if len(sparsity) > 2 and (spread := statistics.pstdev(sparsity)) >= _UNEVEN:
        most, least = (sparsity.index(end) for end in (max(sparsity), min(sparsity)))
        ends = f"{names[most]} loses {sparsity[most]:.0%} of its units and {names[least]} {sparsity[least]:.0%}"
        yield (
            f"Imbalance: {ends} "
            f"(standard deviation over choices {spread:.2f}); a smaller max_sparsity in [space] evens them out."
        )


def of_end(r: Report) -> Iterator[str]:
    """Over-pruning, and MACs that fall while latency does not: what is known in the end."""
    losses = [max(0.0, one.lost or 0.0) for one in r.detail.alone]
    for choice, kept, lost in zip(r.choices, r.final.kept, losses):
        if kept == choice.lowest < choice.of and lost > _MOST * sum(losses):
            worst = words.gap(r, -lost * r.sign)
            yield (
                f"Over-pruning: {choice.name} is at its floor, {kept} of {choice.of} units, and is the choice that "
                f"costs most when it is cut ({worst} alone at half); {_rule(choice.name, choice.of // 2)} spares it."
            )
    if {"macs", "latency"} <= set(r.units):
        macs, latency = (r.final.costs[name] / r.dense.costs[name] for name in ("macs", "latency"))
        if macs < 1 and 1 - latency < _HEEDED * (1 - macs):
            yield (
                f"Hardware mismatch: MACs fell to {macs:.0%}, latency to {latency:.0%}; a budget on latency, and "
                'step = "auto" in [space], keep to widths that the target is fast with.'
            )


def near_chance(metric: str, found: float, dense: float, chance: float) -> Iterator[str]:
    """A score that is hardly better than a guess; all as the metric gives them, a share that is better when higher."""
    if found <= chance + _NEAR * (dense - chance):
        yield (
            f"Near chance: the best network has {found:.1%} {metric} before any finetune, a guess {chance:.1%}; its "
            "order says little. A larger budget, or evaluator reconstruct, leaves more to tell networks apart by."
        )


def _rule(name: str, floor: int) -> str:
    return f"[[space.group]] match = {name!r}, floor = {floor}"
