"""Latency on a target: measured on some policies of the network at hand, predicted for all, with the error printed."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from scipy.stats import spearmanr
from torch import Tensor, nn

from autoprune.costs.arithmetic import Macs
from autoprune.costs.latency import timings as measured
from autoprune.costs.latency.fit import Fit, Floats, Kept, chosen, fitted, restored, state_of
from autoprune.costs.latency.fit import Work as _Work
from autoprune.costs.latency.timings import Store, Timing
from autoprune.errors import ConfigError
from autoprune.protocols import Target, Watch
from autoprune.structure.prune import prune
from autoprune.structure.trace import Trace
from autoprune.targets import timing
from autoprune.targets.timing import Figure, Sampler, Timed, compare
from autoprune.task import Task
from autoprune.values.space import SearchSpace

Known = Mapping[str, Any]  # what a run wrote down of a latency model, to go on with the same

BUILD, UNSEEN, AGAIN = "build", "unseen", "again"
LEAST = 0.2  # of the MACs, the thinnest that is timed, where the space allows it
_TOGETHER = 8  # networks in memory at once
_SEED = 20180206
_STEPS, _FREE = (2, 4, 8, 16, 32), 0.01
_FEWEST = {BUILD: 20, UNSEEN: 8, AGAIN: 8}  # timings without which there is no model
_SAY_THEMSELVES = ("runtime", "device", "dtype", "layout")  # of a target's key, what needs no word before it


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How well policies that the model never saw are predicted, beside what measuring them again differs by.

    Attributes:
        policies: how many.
        mape: mean absolute error as a share of the measurement.
        within_5, within_10: share of policies with an error of at most 5 % and 10 %.
        spearman: rank correlation of predicted and measured.
        noise, spearman_noise: the same two between one measurement and another of the same networks, made anew.
        mape_macs: error of a straight line in MACs, fitted on the same policies.
    """

    policies: int
    mape: float
    within_5: float
    within_10: float
    spearman: float
    noise: float
    spearman_noise: float
    mape_macs: float

    def sentence(self) -> str:
        """For people."""
        return (
            f"{self.policies} unseen policies are predicted within {self.mape:.1%} on average "
            f"({self.within_5:.0%} within 5 %, {self.within_10:.0%} within 10 %, "
            f"rank correlation {self.spearman:.3f}); "
            f"measured again they differ by {self.noise:.1%} (rank correlation {self.spearman_noise:.3f}); "
            f"a line in MACs misses by {self.mape_macs:.1%}"
        )


@dataclass
class Latency:
    """Milliseconds of a forward pass on a target.

    The first use times policies of the network on the target, for at most `seconds`; later uses read them from disk.

    Attributes:
        space: the policies' space.
        trace: the index tables of its groups.
        task: the dense network and an example of its input.
        target: where networks are timed.
        known: the model of a run that is continued; empty to build one.
        policies: that the model is fitted on, at most.
        unseen: policies that it is tested on; each is timed twice.
        seconds: after which no further policy is timed.
        notes: what was not as it should be, a sentence each.
        accuracy: how well unseen policies are predicted.
        timings: what was timed, by part.
        building: seconds that the timings took.
        points: predicted and measured milliseconds of those policies, where they were measured by this model.
    """

    monotone: ClassVar[bool] = False  # runtimes have fast paths for some widths, and slow ones for narrower ones

    space: SearchSpace
    trace: Trace
    task: Task
    target: Target
    known: Known = field(default_factory=dict)
    policies: int = 150
    unseen: int = 24
    seconds: float = 90.0
    notes: list[str] = field(default_factory=list, init=False)
    accuracy: Accuracy | None = field(default=None, init=False)
    building: float = field(default=0.0, init=False)
    timings: Mapping[str, Sequence[Timing]] = field(default_factory=dict, init=False, repr=False)
    points: tuple[tuple[float, float], ...] = field(default=(), init=False, repr=False)
    _fit: Fit | None = field(default=None, init=False, repr=False)
    _dense: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        given = f"cost latency: policies={self.policies}, unseen={self.unseen}, seconds={self.seconds}"
        if self.policies < _FEWEST[BUILD] or self.unseen < _FEWEST[UNSEEN] or not self.seconds > 0:
            raise ConfigError(f"{given}; at least {_FEWEST[BUILD]}, {_FEWEST[UNSEEN]} and more than 0 are needed")

    @property
    def unit(self) -> str:
        """As `CostModel.unit`."""
        return "ms"

    def learn(self, watch: Watch = lambda what, done, of: None) -> None:
        """Time what is not on disk yet, fit, and see how good the fit is. Does nothing the second time."""
        if self._fit is not None:
            return
        if self.known:
            self._fit, self._dense = restored(self.space, self.known), float(self.known["dense"])
            self.accuracy = Accuracy(**self.known["accuracy"])
            return
        begun = time.perf_counter()
        parts = self.timings = self._timed(watch)
        self.building = time.perf_counter() - begun
        self._dense = statistics.median(t.dense for part in parts.values() for t in part)
        kept, ratios = _arrays(parts[BUILD])
        seen, first = _arrays(parts[UNSEEN])
        again = _arrays(parts[AGAIN])[1]
        blocks, strength = chosen(self.space, kept, ratios)
        fit = fitted(_Work(self.space, blocks), kept, ratios, strength)
        line = straight(self._macs(kept), ratios, self._macs(seen))
        self.accuracy = accuracy(fit(seen), first, again, line)
        every, both = np.concatenate([kept, seen]), np.concatenate([ratios, (first + again) / 2])
        self._fit = fitted(_Work(self.space, blocks), every, both, strength)
        self.points = tuple(zip((self._dense * fit(seen)).tolist(), (self._dense * (first + again) / 2).tolist()))

    def sentence(self) -> str:
        """Where it is measured and how well it is predicted, for people."""
        self.learn()
        assert self.accuracy is not None
        where = ", ".join(str(v) if k in _SAY_THEMSELVES else f"{k} {v}" for k, v in self.target.key.items())
        return f"on {where}: {self.accuracy.sentence()}"

    def state(self) -> dict[str, Any]:
        """As `Learns.state`."""
        self.learn()
        assert self.accuracy is not None
        about = {name: getattr(self.accuracy, name) for name in Accuracy.__slots__}
        return {**state_of(self.fit), "dense": self._dense, "accuracy": about, "target": dict(self.target.key)}

    @property
    def fit(self) -> Fit:
        """Shares of the dense network's time."""
        self.learn()
        assert self._fit is not None
        return self._fit

    @property
    def dense(self) -> float:
        """Milliseconds of the dense network, as they were measured."""
        self.learn()
        return self._dense

    @property
    def margin(self) -> float:
        """By which share a network is kept below a ceiling: twice what one measurement differs by from another."""
        self.learn()
        assert self.accuracy is not None
        return 2 * self.accuracy.noise

    def predict(self, policy: Any) -> float:
        """As `PredictiveCost.predict`."""
        return float(self.predict_many(np.array([self.space.kept(policy)]))[0])

    def predict_many(self, kept: Kept) -> Floats:
        """The cost of each row of `kept`, shape (policies, groups) -> (policies,).

        The dense network costs what was measured: it is often faster than its neighbours, and than what is fitted.
        """
        whole = (kept == [group.of for group in self.space]).all(axis=1)
        return self.dense * np.where(whole, 1.0, self.fit(kept))

    def step(self) -> int:
        """The largest multiple of channels to which widths can be rounded up at no cost.

        No cost is at most `_FREE` more than rounding to the last multiple that cost nothing, on average over random
        policies.
        """
        kept = np.array(drawn(self.space, 200, np.random.default_rng(_SEED)))
        of = np.array([group.of for group in self.space])
        found, spent = 1, self.fit(kept)
        for step in _STEPS:
            rounded = self.fit(np.minimum(-(-kept // step) * step, of))
            if float((rounded / spent).mean()) <= 1 + _FREE:
                found, spent = step, rounded
        return found

    def measure(self, model: nn.Module, example: Tensor) -> float:
        """As `CostModel.measure`: timed beside the dense network, in milliseconds of when that was measured."""
        return self.dense * self.figures([model])[0].ratio

    def figures(self, models: Sequence[nn.Module]) -> tuple[Figure, ...]:
        """Times of `models` as shares of the dense network's, all measured together, each made ready anew."""
        reference, *ready = (self.target.ready(model, self.task.example) for model in (self.task.model, *models))
        return compare(reference, ready, rounds=2 * timing.ROUNDS).figures

    def _macs(self, kept: Kept) -> Floats:
        return Macs(self.space).predict_many(kept)

    def _timed(self, watch: Watch) -> dict[str, list[Timing]]:
        """The timings of every part, from disk where they are there."""
        store = Store(measured.folder() / "latency" / f"{measured.named(self._facts)}.jsonl", self._facts)
        self.notes += store.notes
        wanted = self._wanted()
        missing = [key for key in wanted if store.get(*key) is None]
        if missing:
            try:
                self._measure(store, missing, len(wanted), watch)
            except KeyboardInterrupt:
                raise KeyboardInterrupt("stopped; timings are kept, and the same command goes on with them") from None
        found: dict[str, list[Timing]] = {BUILD: [], UNSEEN: [], AGAIN: []}
        for part, kept in wanted:
            if (timing_ := store.get(part, kept)) is not None:
                found[part].append(timing_)
        twice = {t.kept for t in found[UNSEEN]} & {t.kept for t in found[AGAIN]}
        return found | {part: [t for t in found[part] if t.kept in twice] for part in (UNSEEN, AGAIN)}

    def _measure(self, store: Store, missing: Sequence[tuple[str, tuple[int, ...]]], of: int, watch: Watch) -> None:
        """Time what is `missing` until the time is up; some of every part in any case."""
        what = f"timing policies ({self.target.key['runtime']})"
        begun, done = time.perf_counter(), of - len(missing)
        watch(what, done, of)
        for at in range(0, len(missing), _TOGETHER):
            part = missing[at : at + _TOGETHER]
            if time.perf_counter() - begun > self.seconds and self._enough(store):
                self.notes.append(f"Only {len(store)} of {of} timings were made in {self.seconds:g} seconds.")
                break
            timed = self.timed([kept for _, kept in part])
            for (name, kept), figure in zip(part, timed.figures, strict=True):
                store.put(Timing(name, kept, figure.ratio, figure.spread, timed.reference))
            done += len(part)
            watch(what, done, of)
        watch(what, of, of)

    def timed(self, policies: Sequence[Sequence[int]]) -> Timed:
        """Time the networks with these kept units now, together; all are in memory at once."""
        units = [[np.arange(n) for n in kept] for kept in policies]
        return compare(self._dense_cut, [self._cut(prune(self.task.model, self.trace, u)) for u in units])

    @cached_property
    def _dense_cut(self) -> Sampler:
        return self._cut(self.task.model)

    @cached_property
    def _cut(self) -> Callable[[nn.Module], Sampler]:
        """Makes networks ready that are pruned from the dense one."""
        family = getattr(self.target, "family", None)
        if family is not None:
            made: Callable[[nn.Module], Sampler] = family(self.task.model, self.task.example)
            return made
        return lambda model: self.target.ready(model, self.task.example)

    def _enough(self, store: Store) -> bool:
        held = [part for part, kept in self._wanted() if store.get(part, kept) is not None]
        return all(held.count(part) >= least for part, least in _FEWEST.items())

    def _wanted(self) -> list[tuple[str, tuple[int, ...]]]:
        """What is to be timed, in an order that leaves some of every part wherever it ends."""
        rng = np.random.default_rng(_SEED)
        build = drawn(self.space, self.policies, rng)
        unseen = [kept for kept in drawn(self.space, 4 * self.unseen, rng) if kept not in set(build)][: self.unseen]
        unseen = unseen if len(unseen) >= _FEWEST[UNSEEN] else drawn(self.space, self.unseen, rng)
        queue = [(at / len(build), BUILD, kept) for at, kept in enumerate(build)]
        for at, kept in enumerate(unseen):
            queue += [(at / len(unseen), UNSEEN, kept), ((at + 0.5) / len(unseen), AGAIN, kept)]
        return [(part, kept) for _, part, kept in sorted(queue, key=lambda entry: entry[0])]

    @cached_property
    def _facts(self) -> dict[str, Any]:
        """What timings depend on."""
        network = [repr(self.space.ops), [(g.name, g.of) for g in self.space], list(self.task.example.shape[1:])]
        steps = [(g.choices()[0], g.step) for g in self.space]
        return {
            **self.target.key,
            "network": measured.named({"network": json.dumps(network)}),
            "widths": measured.named({"steps": steps}),
            "timing": f"{timing.ROUNDS} x {timing.BURST:g} ms",
        }


def drawn(space: SearchSpace, count: int, rng: np.random.Generator, share: float = 0.0) -> list[tuple[int, ...]]:
    """Random policies, as kept units, that are spread evenly between 20 % and 100 % of the MACs, or at `share` of them.

    Groups differ from one another, in some policies little and in others as much as can be.
    """
    macs = Macs(space)
    of, least, step = (np.array(sizes) for sizes in zip(*((g.of, g.choices()[0], g.step) for g in space), strict=True))
    ends = macs.predict_many(np.stack([least, of]))
    low = max(LEAST, ends[0] / ends[1])
    found = []
    for at in range(count):
        wanted = (share or low + (1 - low) * (at + rng.random()) / count) * ends[1]
        bend = rng.uniform(0.0, 1.5) * (rng.random(len(of)) - 0.5)
        thick, thin = 2.0, -1.0
        for _ in range(40):
            middle = (thick + thin) / 2
            kept = _stepped(of * (middle + bend), of, least, step)
            thick, thin = (middle, thin) if macs.predict_many(kept[None])[0] > wanted else (thick, middle)
        found.append(tuple(_stepped(of * (thin + bend), of, least, step).tolist()))
    return [found[i] for i in rng.permutation(count)]


def _stepped(kept: Floats, of: Kept, least: Kept, step: Kept) -> Kept:
    whole: Kept = np.clip(np.floor(kept / step).astype(np.int64) * step, least, of)
    return np.where(kept >= of, of, whole)


def straight(x: Floats, y: Floats, at: Floats) -> Floats:
    """A straight line through (x, y), least relative squares, at other places."""
    rows = np.stack([np.ones_like(x), x / x.max()], axis=1) / y[:, None]
    line = np.linalg.lstsq(rows, np.ones_like(y), rcond=None)[0]
    found: Floats = np.stack([np.ones_like(at), at / x.max()], axis=1) @ line
    return found


def accuracy(predicted: Floats, first: Floats, again: Floats, line: Floats) -> Accuracy:
    """How well `predicted` meets what was measured `first` and once more; `line` is a simpler prediction."""
    truth = (first + again) / 2
    missed = np.abs(predicted / truth - 1)
    return Accuracy(
        policies=len(truth),
        mape=float(missed.mean()),
        within_5=float((missed <= 0.05).mean()),
        within_10=float((missed <= 0.10).mean()),
        spearman=_rank(predicted, truth),
        noise=float((np.abs(first - again) / truth).mean()),
        spearman_noise=_rank(first, again),
        mape_macs=float(np.abs(line / truth - 1).mean()),
    )


def _rank(left: Floats, right: Floats) -> float:
    """Spearman's rank correlation; of what does not vary 1, if the other does not either, else 0."""
    vary = [bool((side != side[0]).any()) for side in (left, right)]
    return float(spearmanr(left, right).statistic) if all(vary) else float(not any(vary))


def _arrays(timings: Sequence[Timing]) -> tuple[Kept, Floats]:
    return np.array([t.kept for t in timings], dtype=np.int64), np.array([t.ratio for t in timings])
