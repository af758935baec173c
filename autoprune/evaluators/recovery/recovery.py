"""How a pruned network recovers: its BatchNorms get the statistics of few images, corrected by networks that saw many.

The dense network and some random policies, the *probes*, say what is peculiar about the few: their statistics on those
images and on many are known, and those of other networks differ from one to the other in the same way (control
variates), the more so the more alike their widths are (`batchnorm.Peculiar`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import NamedTuple

import torch
from torch import nn

from autoprune.copies import copied
from autoprune.engine.chains import Unfusable
from autoprune.engine.fused import PLACES, Fused, Fuser, Settle, Statistics
from autoprune.engine.memory import laid_out
from autoprune.engine.precision import running
from autoprune.engine.steps import Moments, moments
from autoprune.errors import TrialFailed
from autoprune.evaluators.bench import Bench
from autoprune.evaluators.recovery.batchnorm import Peculiar, Seen, mean_of, norms_of, recalibrate, statistics
from autoprune.evaluators.recovery.replay import Replay, drawn
from autoprune.evaluators.recovery.sampling import Sampling, together
from autoprune.inputs import moved
from autoprune.structure.prune import Candidate
from autoprune.task import Batch
from autoprune.values.space import Policy

_OF_MANY = 512  # places of an image for statistics that are taken once: small images are looked at whole


@dataclass(frozen=True)
class Ready(Candidate):
    """A candidate whose network was made ready to be scored while it recovered.

    Attributes:
        network: computes what `model` computes in eval mode, faster where it can.
    """

    network: nn.Module = field(kw_only=True)


def ready(candidate: Candidate) -> nn.Module:
    """What computes as `candidate` does in eval mode; of one that has not recovered, the network as it is."""
    return candidate.network if isinstance(candidate, Ready) else candidate.model.eval()


class Look(NamedTuple):
    """What was seen of one network: of the policy, or of the dense one where there is none."""

    policy: Policy | None
    seen: Seen


@dataclass(frozen=True)
class Recovery:
    """What was prepared once.

    Attributes:
        fuser: makes networks ready to be scored; or why nothing can.
        few: the images of a trial's statistics.
        looks: at the dense network and at the probes, on few images and on many.
    """

    bench: Bench
    sampling: Sampling
    fuser: Fuser | str
    few: Replay
    looks: tuple[Look, ...] = ()

    @classmethod
    def of(cls, bench: Bench, sampling: Sampling, realise: Callable[[Policy], Candidate]) -> Recovery:
        """Prepare: read the network's graph, and look at the dense network and the probes."""
        train, seed, it = bench.task.calibration, bench.seed, sampling
        first = laid_out(next(drawn(train, seed, it.batch, it.batch))[0])
        few = Replay(lambda: drawn(train, seed, it.images, it.batch))
        blind = cls(bench, it, _fuser(bench.task.model, first), few)
        return replace(blind, looks=tuple(blind._looks(realise)) if it.reference > it.images > 0 else ())

    def without(self, probe: Policy) -> Recovery:
        """The same, had `probe` not been looked at: it is then known as little as a trial is."""
        return replace(self, looks=tuple(look for look in self.looks if look.policy != probe))

    @cached_property
    def peculiar(self) -> Peculiar:
        """What the looks say of the few images."""
        return Peculiar.of([look.seen for look in self.looks])

    def __call__(self, candidate: Candidate) -> Ready:
        """`candidate` with new statistics."""
        network = self._recovered(candidate)
        return Ready(candidate.policy, candidate.model, candidate.stay, candidate.gone, network=network)

    def _recovered(self, candidate: Candidate) -> nn.Module:
        model, precision, device = candidate.model.eval(), self.bench.precision, self.bench.device
        peculiar = self.peculiar  # here, where no lower precision is in force yet
        if (fuser := self._settling(candidate.gone)) is not None:
            return self._settled(fuser, model, self.few, lambda found: peculiar.corrected(found, candidate.stay))
        if self.sampling.images:
            recalibrate(model, self.few, precision)
            held = {layer: moments(norm) for layer, norm in norms_of(model)}
            for layer, found in peculiar.corrected(held, candidate.stay).items():
                for old, new in zip(held[layer], found, strict=True):
                    old.copy_(new)
        with running(precision, device):
            fits = isinstance(self.fuser, Fuser) and not candidate.gone
            return self.fuser(model, precision) if fits else model  # type: ignore[operator]

    def _settled(
        self, fuser: Fuser, model: nn.Module, batches: Iterable[Batch], settle: Settle, places: int = PLACES
    ) -> Fused:
        """`model` made ready with statistics of `batches`, on which `settle` has the last word."""
        images = [moved(one, self.bench.device) for one, _ in batches]
        with torch.inference_mode(), running(self.bench.precision, self.bench.device):
            return fuser.settled(model, self.bench.precision, images, settle, places)

    def _settling(self, gone: Collection[str] = ()) -> Fuser | None:
        """What re-estimates statistics, if not the network itself does it batch by batch: without modules it does."""
        fuser, images = self.fuser, self.sampling.images
        if gone or not (isinstance(fuser, Fuser) and 0 < images <= together(self.bench.task.example)):
            return None
        return fuser if fuser.settles(self.bench.task.model) else None

    def _looks(self, realise: Callable[[Policy], Candidate]) -> Iterator[Look]:
        """What few images and many say of the dense network, which comes first, and of the probes."""
        bench, it = self.bench, self.sampling
        many = Replay(lambda: drawn(bench.task.calibration, bench.seed, it.reference, it.batch))
        yield Look(None, (*self._compared(copied(bench.task.model).eval(), many), {}))
        for policy in it.probing(bench):
            with contextlib.suppress(TrialFailed):
                made = realise(policy)
                yield Look(policy, (*self._compared(made.model.eval(), many, made.gone), made.stay))

    def _compared(self, model: nn.Module, many: Replay, gone: Collection[str] = ()) -> tuple[Statistics, Statistics]:
        """The statistics of `model` on a trial's images, estimated as in a trial, and in many places of many images."""
        if (fuser := self._settling(gone)) is None:
            few, all_of = (statistics(model, batches, self.bench.precision) for batches in (self.few, many))
        else:
            parts = [self._noted(fuser, model, part, _OF_MANY) for part in self._parts(many)]
            all_of = {layer: mean_of([part[layer] for part in parts]) for layer in parts[0]}
            few = self._noted(fuser, model, self.few)
        if not all(bool(tensor.isfinite().all()) for one in (few, all_of) for pair in one.values() for tensor in pair):
            raise TrialFailed("the BatchNorm statistics of a network are not finite on training images")
        return few, all_of

    def _noted(self, fuser: Fuser, model: nn.Module, batches: Iterable[Batch], places: int = PLACES) -> Statistics:
        """The statistics that `model` then has of `batches`."""
        noted: dict[str, Moments] = {}

        def note(found: Statistics) -> Statistics:
            noted.update({layer: (mean.clone(), var.clone()) for layer, (mean, var) in found.items()})
            return found

        self._settled(fuser, model, batches, note, places)
        return noted

    def _parts(self, batches: Iterable[Batch]) -> Iterator[list[Batch]]:
        """As many batches as may be in memory at once, again and again."""
        rest, count = iter(batches), max(1, together(self.bench.task.example) // self.sampling.batch)
        while part := list(islice(rest, count)):
            yield part


def _fuser(model: nn.Module, inputs: object) -> Fuser | str:
    try:
        return Fuser.of(model, inputs)
    except Unfusable as wrong:
        return str(wrong)
