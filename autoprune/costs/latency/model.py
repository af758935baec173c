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
from torch import nn

from autoprune.costs.latency import timings
from autoprune.costs.latency.accuracy import Accuracy, accuracy, straight
from autoprune.costs.latency.draws import drawn
from autoprune.costs.latency.fit import Fit, Work as _Work, chosen, fitted, restored, state_of
from autoprune.costs.latency.timings import Store, Timing
from autoprune.errors import ConfigError
from autoprune.inputs import Inputs, shapes
from autoprune.protocols import Sampler, Target, TimesFamilies, Watch, silent
from autoprune.structure.prune import prune
from autoprune.structure.trace import Trace
from autoprune.targets import timing
from autoprune.targets.timing import Timed, compare
from autoprune.task import Task
from autoprune.values.budget import FromMany
from autoprune.values.space import SearchSpace
from autoprune.values.terms import Figure, Floats, Products, Rows

Known = Mapping[str, Any]  # what a run wrote down of a latency model, to go on with the same

BUILD, UNSEEN, AGAIN = "build", "unseen", "again"
_TOGETHER = 8  # networks in memory at once
_SEED = 20180206
_STEPS, _FREE = (2, 4, 8, 16, 32), 0.01
_FEWEST = {BUILD: 20, UNSEEN: 8, AGAIN: 8}  # timings without which there is no model
_SAY_THEMSELVES = ("runtime", "device", "dtype", "layout")  # of a target's key, what needs no word before it


@dataclass
class Latency(FromMany):
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

    unit: ClassVar[str] = "ms"
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

    def learn(self, watch: Watch = silent) -> None:
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

    def predict_many(self, rows: Rows) -> Floats:
        """As `PredictsMany.predict_many`.

        The dense network costs what was measured: it is often faster than its neighbours, and than what is fitted.
        """
        whole = (rows == self.space.dense().levels).all(axis=1)
        return self.dense * np.where(whole, 1.0, self.fit(rows))

    def step(self) -> int:
        """The largest multiple of channels to which widths can be rounded up at no cost.

        No cost is at most `_FREE` more than rounding to the last multiple that cost nothing, on average over random
        policies.
        """
        rows = np.array(drawn(self.space, 200, np.random.default_rng(_SEED)))
        found, spent = 1, self.fit(rows)
        for step in _STEPS:
            rounded = self.fit(np.minimum(-(-rows // step) * step, self.space.dense().levels))
            if float((rounded / spent).mean()) <= 1 + _FREE:
                found, spent = step, rounded
        return found

    def measure(self, model: nn.Module, example: Inputs) -> float:
        """As `CostModel.measure`: timed beside the dense network, in milliseconds of when that was measured."""
        return self.dense * self.figures([model])[0].ratio

    def figures(self, models: Sequence[nn.Module]) -> tuple[Figure, ...]:
        """Times of `models` as shares of the dense network's, all measured together, each made ready anew."""
        reference, *ready = (self.target.ready(model, self.task.example) for model in (self.task.model, *models))
        return compare(reference, ready, rounds=2 * timing.ROUNDS).figures

    @cached_property
    def _macs(self) -> Products:
        return Products(self.space.ops, len(self.space))

    def _timed(self, watch: Watch) -> dict[str, list[Timing]]:
        """The timings of every part, from disk where they are there."""
        store = Store(timings.folder() / "latency" / f"{timings.named(self._facts)}.jsonl", self._facts)
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
        if isinstance(self.target, TimesFamilies):
            return self.target.family(self.task.model, self.task.example)
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
        choices = [(choice.name, choice.dense) for choice in self.space]
        network = [repr(self.space.ops), choices, shapes(self.task.example)]
        steps = [choice.levels for choice in self.space]
        return {
            **self.target.key,
            "network": timings.named({"network": json.dumps(network)}),
            "widths": timings.named({"steps": steps}),
            "timing": f"{timing.ROUNDS} x {timing.BURST:g} ms",
        }


def _arrays(timings: Sequence[Timing]) -> tuple[Rows, Floats]:
    return np.array([t.kept for t in timings], dtype=np.int64), np.array([t.ratio for t in timings])
