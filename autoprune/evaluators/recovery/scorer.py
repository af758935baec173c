"""How good a recovered network is: counted on all holdout images, or estimated from those of a panel."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.engine.fused import Fused, Fuser
from autoprune.engine.memory import laid_out
from autoprune.engine.precision import running
from autoprune.engine.presented import Plainly, presented
from autoprune.errors import TrialFailed
from autoprune.evaluators.bench import Bench
from autoprune.evaluators.recovery import panel
from autoprune.evaluators.recovery.panel import Panel
from autoprune.evaluators.recovery.recovery import Recovery, ready
from autoprune.evaluators.recovery.replay import Replay, Replayed
from autoprune.evaluators.recovery.sampling import Sampling, together
from autoprune.inputs import Inputs, at_once, call, first, tensors
from autoprune.splits import draw, pick
from autoprune.structure.prune import Candidate
from autoprune.task import Batch, Split, top1
from autoprune.values.space import Policy
from autoprune.values.terms import Floats

_PROBED = 8  # images whose outputs must be finite
_NOT_FINITE = "the pruned network's outputs are not finite on holdout images"


class Scorer(Protocol):
    """Says how good a network is."""

    def __call__(self, candidate: Candidate) -> float:
        """The metric on the holdout, or an estimate of it. Raises TrialFailed where it is not finite."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of it must know."""
        ...


@dataclass(frozen=True)
class CountsAll:
    """The task's metric on every image.

    Attributes:
        judges: the holdout images.
        plainly: what the metric had the pruned networks themselves compute.
    """

    bench: Bench
    judges: Split
    plainly: Plainly = field(default_factory=Plainly)

    def __call__(self, candidate: Candidate) -> float:
        """As `Scorer`."""
        network = ready(candidate)
        with running(self.bench.precision, self.bench.device):
            if not isinstance(network, Fused):
                return self._watched(network)
            value = self._presented(candidate.model, network)
        if not network.finite:
            raise TrialFailed(_NOT_FINITE)
        return value

    @property
    def notes(self) -> tuple[str, ...]:
        """As `Scorer.notes`."""
        return tuple(filter(None, [self.plainly.sentence(self.bench.task.judge.name)]))

    def _watched(self, network: nn.Module) -> float:
        """The metric of `network`, whose first outputs must be finite: those that the metric asks for, if it does."""
        seen: list[bool] = []

        def look(module: nn.Module, args: object, outputs: object) -> None:
            if not seen:
                seen.append(all(bool(out.isfinite().all()) for out in tensors(outputs)))

        hook = network.register_forward_hook(look)
        try:
            value = self.bench.task.quality(network, self._replayed)
        except TrialFailed as wrong:
            raise TrialFailed(_NOT_FINITE) if seen == [False] else wrong from None
        finally:
            hook.remove()
        if seen == [False]:
            raise TrialFailed(_NOT_FINITE)
        if not seen:
            refuse_nonfinite(network, self._probe)
        return value

    def _presented(self, model: nn.Module, network: Fused) -> float:
        """The metric of `model`, whose forward is computed by `network` where the metric cannot tell."""
        before, begun = self.plainly.passes, time.perf_counter()
        with presented(model, network, self.plainly) as shown:
            value = self.bench.task.quality(shown, self._replayed)
        if self.plainly.passes == before and not network.called:
            self.plainly.add("does not call the network as a whole", time.perf_counter() - begun)
        if self.plainly.passes > before:
            refuse_nonfinite(model.eval(), self._probe)
            self.plainly.measure(network, model)
        return value

    @cached_property
    def _replayed(self) -> Replayed:
        return Replayed(self.judges)

    @cached_property
    def _probe(self) -> Inputs:
        return first_images(self.judges)


@dataclass(frozen=True)
class LooksAtPanel:
    """Top-1 on all images, estimated from those that tell pruned networks apart.

    Attributes:
        panel: which images, and what they say of all.
        images: those of the panel, made ready.
        of: how many images there are in all.
    """

    bench: Bench
    panel: Panel
    images: Iterable[Batch]
    of: int

    def __call__(self, candidate: Candidate) -> float:
        """As `Scorer`."""
        return self.panel.top1(margins(self.bench, ready(candidate), self.images))

    @property
    def notes(self) -> tuple[str, ...]:
        """As `Scorer.notes`."""
        return (
            f"Trials look at {len(self.panel.picked):,} of {self.of:,} holdout images, those that tell pruned networks "
            "apart, and count what is nearly wrong as partly wrong, so that their metric is an estimate; the report's "
            "figures are not.",
        )


def scorer(bench: Bench, it: Sampling, recovery: Recovery, realise: Callable[[Policy], Candidate]) -> Scorer:
    """A panel where it saves a whole batch at least, else the count of all; the probes are scored for that, once.

    A panel is whole batches: one size of batch makes one program of each convolution, and that takes as long as to run
    it a few times.
    """
    judges = draw(bench.task.holdout, it.holdout, bench.seed) if it.holdout else bench.task.holdout
    fewest = panel.whole(panel.FEWEST, it.batch)
    pays = bench.shortcuts and it.panel < 1 and bench.task.metric is top1 and len(judges) >= fewest + it.batch
    if not pays:
        return CountsAll(bench, judges)
    step, found, every = step_of(bench, it), list[Floats](), Replayed(judges)
    for policy in it.probing(bench):
        with contextlib.suppress(TrialFailed):
            made = recovery.without(policy)(realise(policy))
            found.append(margins(bench, made.network, every.batches(step)))
    if not found:
        raise TrialFailed("the outputs of the pruned networks that pick the holdout images are not finite")
    probed = np.stack(found)
    chosen = Panel.of(probed, panel.enough(probed, it.panel, it.batch))
    fuser = recovery.fuser
    whole = all(bench.trace.slices)  # without modules networks are no longer fused, and take images as they are
    coded = fuser.coded if isinstance(fuser, Fuser) and bench.precision == "int8" and whole else laid_out

    def picked() -> Iterator[Batch]:
        for images, targets in pick(judges.batches(step), chosen.picked, step):
            yield coded(images), targets

    return LooksAtPanel(bench, chosen, Replay(picked), len(judges))


def step_of(bench: Bench, it: Sampling) -> int:
    """Images a step of a panel's score: on a GPU, which waits for launches, as many as were probed together."""
    return it.batch if bench.device.type == "cpu" else max(it.batch, min(it.reference, together(bench.task.example)))


def margins(bench: Bench, network: nn.Module, batches: Iterable[Batch]) -> Floats:
    """As `panel.margins`. Raises TrialFailed where one is not finite."""
    with running(bench.precision, bench.device):
        found = panel.margins(network, batches)
    if not np.isfinite(found).all():
        raise TrialFailed(_NOT_FINITE)
    return found


def first_images(split: Split) -> Inputs:
    """A few of a split's images, ready to be looked at."""
    images, _ = next(iter(split.batches(_PROBED)))
    return laid_out(first(images, at_once(images, _PROBED)))


def refuse_nonfinite(model: nn.Module, images: Inputs) -> None:
    """A network full of NaN still has an accuracy: look at its outputs, too."""
    with torch.inference_mode():
        outputs: list[Tensor] = tensors(call(model, images))
    if not all(bool(out.isfinite().all()) for out in outputs):
        raise TrialFailed(_NOT_FINITE)
