"""Latency on a target: measured on some policies of the network at hand, predicted for all, with the error printed."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pydantic
from torch import nn

from autoprune.costs.latency import anchors
from autoprune.costs.latency.accuracy import Accuracy, accuracy, margin, straight
from autoprune.costs.latency.draws import drawn
from autoprune.costs.latency.fit import Fit, Work as _Work, chosen, fitted, restored, state_of
from autoprune.costs.latency.timings import Store, Timing
from autoprune.errors import RunError, one_line
from autoprune.files import cache
from autoprune.inputs import Inputs, shapes
from autoprune.protocols import Sampler, Target, TimesFamilies, Watch, silent
from autoprune.structure.prune import prune
from autoprune.structure.trace import Trace
from autoprune.targets import timing
from autoprune.targets.timing import Timed, compare
from autoprune.task import Task
from autoprune.values.budget import FromMany
from autoprune.values.ranges import Range, require
from autoprune.values.space import Policy, SearchSpace
from autoprune.values.terms import Figure, Floats, Products, Rows

Known = Mapping[str, Any]  # what a run wrote down of a latency model, to go on with the same

BUILD, UNSEEN, AGAIN = "build", "unseen", "again"
ANCHOR = "anchor"  # timed beside all others, at every moment
PROVED = "proved"  # policies that were measured at the end of searches, after they were predicted
_TOGETHER = 8  # networks in memory at once
_SEED = 20180206
_STEPS, _FREE = (2, 4, 8, 16, 32), 0.01
_FEWEST = {BUILD: 20, UNSEEN: 8, AGAIN: 8}  # timings without which there is no model
_MILLISECONDS = pydantic.TypeAdapter(Annotated[float, Range(0, 1e9, above=True)])
_MARGIN = pydantic.TypeAdapter(Annotated[float, Range(0, 100)])
_ACCURACY = pydantic.TypeAdapter(Accuracy)
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
        margin: by which share the measurement of a policy exceeds its prediction at most, in five cases of six; less,
            the more policies were measured and the better they were predicted.
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
    policies: Annotated[int, Range(_FEWEST[BUILD], 100_000)] = 150
    unseen: Annotated[int, Range(_FEWEST[UNSEEN], 100_000)] = 24
    seconds: Annotated[float, Range(0, 1e6, above=True)] = 90.0
    notes: list[str] = field(default_factory=list, init=False)
    accuracy: Accuracy | None = field(default=None, init=False)
    _margin: float = field(default=0.0, init=False)
    building: float = field(default=0.0, init=False)
    timings: Mapping[str, Sequence[Timing]] = field(default_factory=dict, init=False, repr=False)
    points: tuple[tuple[float, float], ...] = field(default=(), init=False, repr=False)
    _fit: Fit | None = field(default=None, init=False, repr=False)
    _dense: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        require(self)

    def learn(self, watch: Watch = silent) -> None:
        """Time what is not on disk yet, fit, and see how good the fit is. Does nothing the second time."""
        if self._fit is not None:
            return
        if self.known:
            self._take_up(self.known)
            return
        begun = time.perf_counter()
        parts = self.timings = self._timed(watch)
        self.building = time.perf_counter() - begun
        self._dense = statistics.median(t.dense for part in _FEWEST for t in parts[part])
        choices = len(self.space)
        kept, ratios = _arrays(parts[BUILD], choices)
        seen, first = _arrays(parts[UNSEEN], choices)
        again = _arrays(parts[AGAIN], choices)[1]
        blocks, strength = chosen(self.space, kept, ratios)
        fit = fitted(_Work(self.space, blocks), kept, ratios, strength)
        line = straight(self._macs(kept), ratios, self._macs(seen))
        self.accuracy = accuracy(fit(seen), first, again, line)
        proved, held = _arrays(parts[PROVED], choices)
        guessed = np.concatenate([fit(seen), fit(proved)])
        self._margin = margin(guessed, np.concatenate([(first + again) / 2, held]))
        every, both = np.concatenate([kept, seen]), np.concatenate([ratios, (first + again) / 2])
        self._fit = fitted(_Work(self.space, blocks), every, both, strength)
        self.notes += self._steadiness()
        self.points = tuple(zip((self._dense * fit(seen)).tolist(), (self._dense * (first + again) / 2).tolist()))

    def _take_up(self, known: Known) -> None:
        """Go on with what a run wrote down."""
        try:
            self._fit, self._dense = restored(self.space, known), _MILLISECONDS.validate_python(known["dense"])
            self.accuracy = _ACCURACY.validate_python(known["accuracy"])
            self._margin = _MARGIN.validate_python(known.get("margin", 2 * self.accuracy.noise))
        except (KeyError, TypeError, ValueError, OverflowError) as wrong:
            what = f"what machine.json says of latency is damaged ({one_line(wrong)})"
            raise RunError(f"{what}; begin a new run") from None

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
        learnt = {"dense": self._dense, "accuracy": about, "margin": self._margin, "target": dict(self.target.key)}
        return {**state_of(self.fit), **learnt}

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
        """By which share a measurement may exceed what is predicted."""
        self.learn()
        return self._margin

    @property
    def noise(self) -> float:
        """By which share one measurement may differ from another: twice what they do on average."""
        self.learn()
        assert self.accuracy is not None
        return 2 * self.accuracy.noise

    def predict_many(self, rows: Rows) -> Floats:
        """As `PredictsMany.predict_many`.

        The dense network costs what was measured: it is often faster than its neighbours, and than what is fitted.
        """
        whole = (rows == self.space.dense().levels).all(axis=1)
        return self.dense * np.where(whole, 1.0, self.fit(rows))

    def by_layer(self, policy: Policy) -> dict[str, float]:
        """As `protocols.ByLayer`, as it is fitted."""
        row = np.array([policy.levels], dtype=np.int64)
        return {name: self.dense * share for name, share in self.fit.by_layer(row).items()}

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

    def prove(self, policy: Policy, figure: Figure) -> None:
        """As `Proves.prove`: kept beside the timings that the model is made of, for the margin of the next search."""
        if self._place.exists():
            store = Store(self._place, self._facts)
            store.put(Timing(PROVED, policy.levels, figure.ratio, figure.spread, self.dense))

    @cached_property
    def _macs(self) -> Products:
        return Products(self.space.ops, len(self.space))

    def _timed(self, watch: Watch) -> dict[str, list[Timing]]:
        """The timings of every part, from disk where they are there."""
        store = Store(self._place, self._facts)
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
        both = {part: [t for t in found[part] if t.kept in twice] for part in (UNSEEN, AGAIN)}
        return {**found, **both, PROVED: store.of(PROVED), ANCHOR: store.of(ANCHOR)}

    def _measure(self, store: Store, missing: Sequence[tuple[str, tuple[int, ...]]], of: int, watch: Watch) -> None:
        """Time what is `missing` until the time is up; some of every part in any case."""
        what = f"timing policies ({self.target.key['runtime']})"
        begun, done = time.perf_counter(), of - len(missing)
        watch(what, done, of)
        for at in range(0, len(missing), _TOGETHER):
            part = missing[at : at + _TOGETHER]
            if time.perf_counter() - begun > self.seconds and self._enough(store):
                self.notes.append(f"Only {done} of {of} timings were made in {self.seconds:g} seconds.")
                break
            moment = f"{ANCHOR} {len(store)}"
            beside = [*part, *((moment, kept) for kept in self._anchors)]
            timed = self.timed([kept for _, kept in beside])
            for (name, kept), figure in zip(beside, timed.figures, strict=True):
                store.put(Timing(name, kept, figure.ratio, figure.spread, timed.reference))
            done += len(part)
            watch(what, done, of)
        watch(what, of, of)

    def timed(self, policies: Sequence[Sequence[int]]) -> Timed:
        """Time the networks with these kept units now, together; all are in memory at once."""
        return compare(self._dense_cut, [self._cut(self._thinner(kept)) for kept in policies])

    def _thinner(self, kept: Sequence[int]) -> nn.Module:
        return prune(self.task.model, self.trace, [np.arange(level) for level in kept])

    @cached_property
    def _anchors(self) -> list[tuple[int, ...]]:
        """Policies that are timed beside all others, at every moment."""
        return anchors.chosen(self.space)

    def _steadiness(self) -> Iterator[str]:
        """What is to be said of how steady the machine was while policies were timed, if anything is."""
        moments = [[t.ratio for t in self.timings[ANCHOR] if t.kept == kept] for kept in self._anchors]

        def alone() -> float:
            thinner = [self._thinner(kept) for kept in self._anchors]
            return anchors.with_one_thread(self.target, self.task.model, thinner, self.task.example)

        if said := anchors.remark(moments, anchors.threads_of(self.target), alone):
            yield said

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

    @property
    def _place(self) -> Path:
        """Where timings are kept."""
        return cache.folder() / "latency" / f"{cache.named(self._facts)}.jsonl"

    @cached_property
    def _facts(self) -> dict[str, Any]:
        """What timings depend on."""
        choices = [(choice.name, choice.dense) for choice in self.space]
        network = [repr(self.space.ops), choices, shapes(self.task.example)]
        steps = [choice.levels for choice in self.space]
        return {
            **self.target.key,
            "network": cache.named({"network": json.dumps(network)}),
            "widths": cache.named({"steps": steps}),
            "timing": f"{timing.ROUNDS} x {timing.BURST:g} ms",
        }


def _arrays(timings: Sequence[Timing], choices: int) -> tuple[Rows, Floats]:
    """The levels, (policies, choices), and the ratios, (policies,)."""
    rows = np.array([t.kept for t in timings], dtype=np.int64).reshape(-1, choices)
    return rows, np.array([t.ratio for t in timings], dtype=np.float64)
