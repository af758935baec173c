"""How many times as fast a network runs in one precision as in another: timed, for whoever keeps what comes out."""

from __future__ import annotations

import time

from autoprune.engine.precision import Way, forward
from autoprune.inputs import Inputs, first, tensors

ROUNDS, FEWEST, SECONDS = 25, 5, 8.0  # at most so many rounds; after so many seconds, so many are enough
TOGETHER = 32  # samples: a short run is more often left alone
_CRAWLS, _AT_ONCE = 3.0, 0.1  # times slower, and seconds: seen in the first round


def speedup(old: Way, new: Way, batch: Inputs) -> float:
    """How many times as fast `new` takes samples of `batch` as `old` does.

    Other work on the machine should not be seen in it: on a CPU it is this process's own processor time that counts;
    the two take turns; and of each the run that took least, since whatever disturbs only adds.
    """
    batch = first(batch, TOGETHER)
    begun, before, after = time.perf_counter(), list[float](), list[float]()
    for done in range(ROUNDS):
        before.append(_timed(old, batch))
        after.append(_timed(new, batch))
        if after[-1] > max(_AT_ONCE, _CRAWLS * before[-1]):
            break
        if done + 1 >= FEWEST and time.perf_counter() - begun > SECONDS:
            break
    return min(before) / max(min(after), 1e-9)


def _timed(way: Way, batch: Inputs) -> float:
    clock = time.process_time if tensors(batch)[0].device.type == "cpu" else time.perf_counter
    begun = clock()
    forward(way, batch).cpu()  # waits for an accelerator
    return clock() - begun
