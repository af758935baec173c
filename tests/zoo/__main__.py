"""Write the table of docs/models.md: `python -m tests.zoo docs/models.md`, or `python -m tests.zoo` to print it."""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from autoprune.costs.arithmetic import Macs
from autoprune.errors import AutopruneError
from autoprune.inputs import shapes
from autoprune.structure.edits import Frozen
from tests.zoo import NETWORKS, Case, Network

COLUMNS = ("network", "inputs", "parameters", "MACs", "of them prunable", "thinnest", "choices", "frozen, and why")
HEAD = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"
ABOUT = """# Networks that were tried

{count} networks, as their libraries make them: traced, priced for random policies and compared with the pruned network
to the last MAC and parameter, run in another number and size of samples, and searched for a layer that is neither in a
choice nor frozen with a reason (`pytest tests/zoo -m ''`). Made by `python -m tests.zoo docs/models.md`.

*Of them prunable* is the share of the dense network's MACs in operators that a choice takes something of; *thinnest* is
what is left of all MACs where every choice is at its lowest level. Sizes are those at which it was traced here. Numbers
before a reason are layers.
"""


def main() -> int:
    """Print the table, or write the page."""
    asked = argparse.ArgumentParser(prog="python -m tests.zoo", description=__doc__)
    asked.add_argument("page", nargs="?", type=Path, help="the page to write; without it the table is printed")
    page: Path | None = asked.parse_args().page
    here = [one for one in NETWORKS.values() if one.is_here]
    if page is None:
        for line in lines(here):
            print(line, flush=True)  # noqa: T201
    elif len(here) < len(NETWORKS):
        print("timm, transformers and torchvision are needed for the whole page", file=sys.stderr)  # noqa: T201
        return 2
    else:
        page.write_text("\n".join([ABOUT.format(count=len(here)), *lines(here), ""]), encoding="utf-8")
    return 0


def lines(networks: Iterable[Network]) -> Iterator[str]:
    """A table a family."""
    family = ""
    for network in networks:
        if network.family != family:
            family = network.family
            yield f"\n## {family}\n\n{HEAD}"
        yield _row(network)


def _row(network: Network) -> str:
    one, name = Case(network), network.name.partition("/")[2]
    parameters = sum(p.numel() for p in one.model.parameters())
    taken = shapes(one.example)
    try:
        space, frozen = one.space, one.trace.frozen
    except AutopruneError as wrong:
        return _line(name, taken, _short(parameters), "", "", "", 0, wrong)
    if space.unpriced:
        why = f"{_reasons(frozen)}; MACs of {', '.join(space.unpriced)} are not known"
        return _line(name, taken, _short(parameters), "not known", "", "", len(space), why)
    macs, dense = Macs(space), [choice.dense for choice in space]
    whole = macs.predict(space.dense())
    moving = sum(op.count(dense) for op in space.ops if op.extents)
    thinnest = macs.predict(space.thinnest())
    shares = (f"{moving / whole:.0%}", f"{thinnest / whole:.1%}")
    return _line(name, taken, _short(parameters), _short(whole), *shares, len(space), _reasons(frozen))


def _line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _reasons(frozen: Iterable[Frozen]) -> str:
    """The reasons, the most frequent first, without names."""
    counts = Counter(re.sub(r"`[^`]*`", "…", one.reason) for one in frozen)
    return "; ".join(f"{count} {why}" for why, count in counts.most_common())


def _short(number: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.0f}"


if __name__ == "__main__":
    sys.exit(main())
