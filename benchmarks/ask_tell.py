"""What an ask and a tell of each controller cost after few, some and many trials, in milliseconds of processor time.

    python benchmarks/ask_tell.py [--quick] [--json FILE] [controller ...]

Every controller is told trials of random policies of a chain of 28 choices (as many as ResNet-56 has) under half of the
MACs, and asked after 10, 400 and 5,000 of them. Nothing is above 50 ms at 400 trials but what `WHY` says. Processor
time, of one thread, does not depend on what else the machine does. With `--quick` the last is 1,000 and slow
controllers are left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from autoprune import plugins
from autoprune.controllers.random import Random
from autoprune.controllers.rules import RULES
from autoprune.testing.surrogate import half, judge, toy_space
from autoprune.values.trial import Trial

DEPTH, TRIALS, QUICK = 28, (10, 400, 5000), (10, 400, 1000)
FIXED = tuple(RULES)  # have one policy, which is asked for before anything is told
SLOW = ("bayes-gp", "ddpg", "td3", "sac")
ASKS, MOST = 5, 50.0  # asks that are timed; ms, above which there is a reason to give
WHY = {
    "bayes-gp": "a Gaussian process of up to 125 trials is fitted and its acquisition optimised anew for each ask",
    "ddpg": "a tell trains actor and critics for 6 batches; an ask walks over the choices, again where it was seen",
    "td3": "as ddpg",
    "sac": "as ddpg",
}


class Row(NamedTuple):
    """What one controller takes after so many trials: the median ask, and the mean tell since the last row."""

    controller: str
    choices: int
    trials: int
    ask_ms: float
    tell_ms: float


def rows(name: str, told: list[Trial], at: tuple[int, ...]) -> Iterator[Row]:
    """What the controller called `name` takes when it was told so many of `told`."""
    space = toy_space(depth=DEPTH)
    controller: Any = plugins.build("controller", {"use": name}, space=space, budget=half(space), seed=0)
    done = 0
    for count in at:
        new = told[done:count]
        spent = _milliseconds(lambda new=new: [controller.tell(trial) for trial in new])  # type: ignore[misc]
        asks = [_milliseconds(controller.ask) for _ in range(ASKS)]
        yield Row(name, DEPTH, count, round(statistics.median(asks), 2), round(spent / len(new), 3))
        done = count


def past(trials: int) -> list[Trial]:
    """Random policies and what became of them."""
    space = toy_space(depth=DEPTH)
    other = Random(space, half(space), seed=1)
    return [judge(space, number, other.ask()) for number in range(trials)]


def _milliseconds(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return 1e3 * (time.process_time() - begun)


def main() -> None:
    """Print a line for each controller, and write all rows where that is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("controllers", nargs="*", help="all that are built in, where none is named")
    parser.add_argument("--quick", action="store_true", help="fewer trials, and no slow controllers")
    parser.add_argument("--json", type=Path, help="where to write the rows")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    at = QUICK if asked.quick else TRIALS
    names = asked.controllers or [n for n in plugins.OURS["controller"] if n not in (*FIXED, *(SLOW * asked.quick))]
    told, found = past(max(at)), list[Row]()
    print("controller    " + "".join(f"{f'after {count:,}':>26}" for count in at))
    for name in names:
        found += (line := list(rows(name, told, at)))
        print(f"{name:14}" + "".join(f"{r.ask_ms:>10.1f} ask {r.tell_ms:>7.2f} tell" for r in line), flush=True)
        if any(r.ask_ms > MOST for r in line if r.trials <= 400):
            print(f"{'':14}{WHY.get(name, 'above 50 ms, for no reason that is known')}")
    if asked.json:
        asked.json.write_text(json.dumps([row._asdict() for row in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
