"""The fast evaluator: prune, re-estimate the BatchNorm statistics, score on the holdout.

Pruned layers feed other means and variances forward than their BatchNorms remember; without this step the score of a
pruned network says next to nothing. No weight is trained.

Few images are enough, because the dense network and some random policies, the *probes*, say what is peculiar about
them: their statistics on those images and on many are known, and those of other networks differ from one to the other
in the same way (control variates), the more so the more alike their widths are. The score is computed by
`engine.fused`, where the network's graph can be read. Of many holdout images, a trial looks at those that tell pruned
networks apart, which the probes also say (`recovery.panel`).
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autoprune import criteria
from autoprune.criteria import Scoring
from autoprune.engine import heap
from autoprune.engine.chains import Unfusable
from autoprune.engine.fused import PLACES, Fused, Fuser, Moments, Settle, Statistics, moments
from autoprune.engine.memory import laid_out
from autoprune.engine.precision import running
from autoprune.errors import ConfigError, TrialFailed
from autoprune.evaluators.recovery import panel
from autoprune.evaluators.recovery.batchnorm import Peculiar, Seen, mean_of, norms_of, recalibrate, statistics
from autoprune.evaluators.recovery.panel import Panel
from autoprune.evaluators.recovery.replay import Ready, Replay
from autoprune.structure.prune import Stay, Units, keep_first, order, slices, staying
from autoprune.structure.trace import Trace
from autoprune.task import Batch, Split, Task, top1
from autoprune.train import forked
from autoprune.values.space import Policy, SearchSpace

_PROBED = 8  # images whose outputs must be finite
_NOT_FINITE = "the pruned network's outputs are not finite on holdout images"
_OF_MANY = 512  # places of an image for statistics that are taken once: small images are looked at whole
_TIDY = 50  # scores after which freed memory is given back
_AT_ONCE = 2**26  # bytes of images whose activations may be in memory together


@dataclass
class Recalibrate:
    """Prune, re-estimate BatchNorm statistics on training images, score on the holdout.

    Attributes:
        task: the dense network, which is only read, and its images.
        trace: the index tables of its groups.
        space: the policies' space.
        criterion: which units stay; scored once, on the dense network.
        seed: of the calibration images and of a random criterion.
        precision: "fp32", "bf16" or "int8", of the score; statistics are estimated in bf16 at the least.
        images: training images that a trial's statistics are estimated on; 0 leaves them.
        batch: images a step of that, and of a score that looks at a panel.
        reference: training images on which the statistics of the dense network and of the probes are measured, once, to
            correct for what is peculiar about a trial's few; no more than `images` corrects nothing.
        holdout: holdout images that score a trial; 0 takes them all.
        panel: a trial looks at those of them that tell pruned networks apart, in whole batches: at as many, but not
            fewer than 500, as make up this share, in (0, 1], of the variance among probes. The metric on all is
            estimated from them. 1 counts all, as do metrics other than top-1, and where less than a batch is saved.
        probes: random policies that are looked at closely before the first trial: on `reference` training images, and,
            to know which those are, on all holdout images. 0: the dense network alone corrects, and `panel` must be 1.
    """

    task: Task
    trace: Trace
    space: SearchSpace
    criterion: Scoring
    seed: int = 0
    precision: str = "fp32"
    images: int = 100
    batch: int = 100
    reference: int = 1024
    holdout: int = 0
    panel: float = 0.95
    probes: int = 16
    spent: Mapping[str, float] = field(init=False, default_factory=dict)
    _scored: int = field(init=False, repr=False, default=0)
    _stay: WeakKeyDictionary[nn.Module, Stay] = field(init=False, repr=False, default_factory=WeakKeyDictionary)

    def __post_init__(self) -> None:
        if self.images and not self.images >= self.batch >= 2:
            raise ConfigError(f"images={self.images}, batch={self.batch}: images >= batch >= 2 is needed")
        for name in ("holdout", "reference"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}={getattr(self, name)}: a number of images is needed, or 0")
        if not (0 < self.panel <= 1 and self.probes >= (1 if self.panel < 1 else 0)):
            given = f"panel={self.panel}, probes={self.probes}"
            raise ConfigError(f"{given}: a share in (0, 1] and at least 1 are needed, or panel = 1 and probes = 0")
        self.realised: Callable[[Policy], nn.Module] = self.realise  # as trials are

    def realise(self, policy: Policy) -> nn.Module:
        """The pruned network, not recovered yet."""
        stay = staying(self.task.model, self.trace.cuts, self.units(policy))
        model = slices(self.task.model, stay)
        self.remember(model, stay)
        return model

    def remember(self, model: nn.Module, stay: Stay) -> None:
        """Note what `model`, which was made elsewhere from the network of full width, has kept of it."""
        self._stay[model] = stay

    def stay(self, model: nn.Module) -> Stay:
        """Which positions of each of the dense network's tensors `model`, made by `realise`, has kept."""
        return self._stay.get(model, {})

    def units(self, policy: Policy) -> list[Units]:
        """The units of each group that stay."""
        return keep_first(self.ranked, self.space.kept(policy))

    def metric(self, model: nn.Module) -> float:
        """The holdout metric with re-estimated statistics, which `model` then has.

        How long recovery and score took is in `spent` afterwards, in seconds.
        """
        begun = time.perf_counter()
        with forked(self.seed):
            ready = self._recovered(model, self._peculiar)
            between = time.perf_counter()
            value = self._score(ready)
        self.spent = {"recover": between - begun, "score": time.perf_counter() - between}
        self._scored += 1
        if self._scored % _TIDY == 0:
            heap.trim()
        return value

    def careful(self) -> Careful:
        """The same without the short cuts."""
        return Careful(self.realise, self)

    @property
    def notes(self) -> tuple[str, ...]:
        """How scores are computed."""
        found = []
        if isinstance(self._fuser, str):
            found.append(f"Networks are scored layer by layer: {self._fuser}.")
        elif self.precision == "int8":
            found.append("Networks are scored with weights and activations of 8 bits; the report's figures are not.")
        looked_at = vars(self).get("_panel")  # None, too, before the first trial
        if looked_at is not None:
            found.append(
                f"Trials look at {len(looked_at.picked):,} of {len(self._judges):,} holdout images, those that tell "
                "pruned networks apart, and count what is nearly wrong as partly wrong, so that their metric is an "
                "estimate; the report's figures are not."
            )
        return tuple(found)

    def _recovered(self, model: nn.Module, peculiar: Peculiar) -> nn.Module:
        """What scores `model` after it was given new statistics."""
        model.eval()
        stay = self.stay(model)
        if self._settling is not None:
            return self._settled(model, self._calibration, lambda found: peculiar.corrected(found, stay))
        if self.images:
            recalibrate(model, self._calibration, self.precision)
            held = {layer: moments(norm) for layer, norm in norms_of(model)}
            for layer, found in peculiar.corrected(held, stay).items():
                for old, new in zip(held[layer], found, strict=True):
                    old.copy_(new)
        with running(self.precision, self._device):
            if isinstance(self._fuser, Fuser):
                return self._fuser(model, self.precision)
            _refuse_nonfinite(model, self._probe)
        return model

    def _settled(self, model: nn.Module, batches: Iterable[Batch], settle: Settle, places: int = PLACES) -> Fused:
        """`model` made ready with statistics of `batches`, on which `settle` has the last word."""
        assert self._settling is not None
        inputs = [images.to(self._device) for images, _ in batches]
        with torch.inference_mode(), running(self.precision, self._device):
            return self._settling.settled(model, self.precision, inputs, settle, places)

    def _score(self, ready: nn.Module) -> float:
        if self._panel is not None:
            value = self._panel.top1(self._margins(ready, self._picked))
        else:
            with running(self.precision, self._device):
                value = float(self.task.metric(ready, self._holdout))
        if isinstance(ready, Fused) and not ready.finite:
            raise TrialFailed(_NOT_FINITE)
        if not math.isfinite(value):
            raise TrialFailed(f"the metric is {value}; it should be a finite number")
        return value

    @property
    def _device(self) -> torch.device:
        return next(self.task.model.parameters()).device

    @property
    def _judges(self) -> Split:
        """The images that say what a trial is worth."""
        return self.task.holdout.head(self.holdout) if self.holdout else self.task.holdout

    @cached_property
    def _panel(self) -> Panel | None:
        """The images that trials look at; None where all are counted. They are whole batches.

        One size of batch makes one program of each convolution, and that takes as long as to run it a few times.
        """
        fewest = panel.whole(panel.FEWEST, self.batch)
        if self.panel == 1 or self.task.metric is not top1 or len(self._judges) < fewest + self.batch:
            return None
        found, every = [], Ready(self._judges)
        for policy in self._probes:
            with contextlib.suppress(TrialFailed):
                ready = self._recovered(self.realised(policy), self._said_without(policy))
                found.append(self._margins(ready, every.batches(self._step)))
        if not found:
            raise TrialFailed("the outputs of the pruned networks that pick the holdout images are not finite")
        probed = np.stack(found)
        return Panel.of(probed, panel.enough(probed, self.panel, self.batch))

    @property
    def _step(self) -> int:
        """Images a step of a panel's score: on a GPU, which waits for launches, as many as were probed together."""
        return self.batch if self._device.type == "cpu" else max(self.batch, min(self.reference, self._together))

    def _margins(self, ready: nn.Module, batches: Iterable[Batch]) -> NDArray[np.float64]:
        with running(self.precision, self._device):
            found = panel.margins(ready, batches)
        if not np.isfinite(found).all():
            raise TrialFailed(_NOT_FINITE)
        return found

    @cached_property
    def _fuser(self) -> Fuser | str:
        """What makes networks ready to be scored, or why nothing can."""
        try:
            with forked(self.seed):
                inputs, _ = next(self.task.train.shuffled(self.batch, torch.Generator().manual_seed(self.seed)))
                return Fuser.of(self.task.model, laid_out(inputs))
        except Unfusable as wrong:
            return str(wrong)

    @cached_property
    def _peculiar(self) -> Peculiar:
        """What is peculiar about a trial's images, compared with many."""
        return Peculiar.of([seen for _, seen in self._seen])

    def _said_without(self, probe: Policy) -> Peculiar:
        """The same, had `probe` not been looked at: it is then known as little as a trial is."""
        return Peculiar.of([seen for policy, seen in self._seen if policy != probe])

    @cached_property
    def _seen(self) -> list[tuple[Policy | None, Seen]]:
        """What a trial's images and many say of the dense network, which comes first, and of the probes."""
        if self.reference <= self.images or not self.images:
            return []
        with forked(self.seed):
            many = Replay(lambda: self._drawn(self.reference))
            dense = copy.deepcopy(self.task.model).eval()
            found: list[tuple[Policy | None, Seen]] = [(None, (*self._compared(dense, many), self.stay(dense)))]
            for policy in self._probes:
                with contextlib.suppress(TrialFailed):
                    model = self.realised(policy).eval()
                    found.append((policy, (*self._compared(model, many), self.stay(model))))
        return found

    def _compared(self, model: nn.Module, many: Replay) -> tuple[Statistics, Statistics]:
        """The statistics of `model` on a trial's images, estimated as in a trial, and in many places of many images."""
        if self._settling is None:
            few, all_of = (statistics(model, batches, self.precision) for batches in (self._calibration, many))
        else:
            parts = [self._noted(model, part, _OF_MANY) for part in self._parts(many)]
            all_of = {layer: mean_of([part[layer] for part in parts]) for layer in parts[0]}
            few = self._noted(model, self._calibration)
        if not all(bool(tensor.isfinite().all()) for one in (few, all_of) for pair in one.values() for tensor in pair):
            raise TrialFailed("the BatchNorm statistics of a network are not finite on training images")
        return few, all_of

    @property
    def _probes(self) -> list[Policy]:
        """The random policies that say which images tell networks apart, and what is peculiar about a trial's few."""
        return panel.probes(self.space, self.probes, self.seed)

    def _noted(self, model: nn.Module, batches: Iterable[Batch], places: int = PLACES) -> Statistics:
        """The statistics that `model` then has of `batches`."""
        noted: dict[str, Moments] = {}

        def note(found: Statistics) -> Statistics:
            noted.update({layer: (mean.clone(), var.clone()) for layer, (mean, var) in found.items()})
            return found

        self._settled(model, batches, note, places)
        return noted

    @cached_property
    def _settling(self) -> Fuser | None:
        """What re-estimates statistics, if not the network itself does it batch by batch."""
        fuser, few = self._fuser, self.images <= self._together
        return fuser if isinstance(fuser, Fuser) and self.images and few and fuser.settles(self.task.model) else None

    def _parts(self, batches: Iterable[Batch]) -> Iterator[list[Batch]]:
        """As many batches as may be in memory at once, again and again."""
        rest, count = iter(batches), max(1, self._together // self.batch)
        while part := list(islice(rest, count)):
            yield part

    @property
    def _together(self) -> int:
        """How many images may be in memory together."""
        return _AT_ONCE // max(1, self.task.example[:1].nbytes)

    @cached_property
    def ranked(self) -> list[Units]:
        """The units of each group, those first that stay longest."""
        with forked(self.seed):
            found = criteria.scores(self.task.model, self.trace, self.criterion, task=self.task, seed=self.seed)
        return order(found)

    @cached_property
    def _calibration(self) -> Replay:
        return Replay(lambda: self._drawn(self.images))

    def _drawn(self, images: int, draw: int = 0) -> Iterator[Batch]:
        """So many training images; those of one `draw` are not in another."""
        shuffled = self.task.train.shuffled(self.batch, torch.Generator().manual_seed(self.seed))
        count = images // self.batch
        return islice(shuffled, draw * count, (draw + 1) * count)

    @cached_property
    def _holdout(self) -> Ready:
        return Ready(self._judges)

    @cached_property
    def _picked(self) -> Replay:
        """The images of the panel."""
        assert self._panel is not None
        places = self._panel.picked
        coded = self._fuser.coded if isinstance(self._fuser, Fuser) and self.precision == "int8" else laid_out

        def made() -> Iterator[Batch]:
            for inputs, targets in panel.pick(self._judges.batches(self._step), places, self._step):
                yield coded(inputs), targets

        return Replay(made)

    @cached_property
    def _probe(self) -> Tensor:
        inputs, _ = next(self.task.holdout.head(_PROBED).batches(_PROBED))
        return laid_out(inputs)


@dataclass(frozen=True)
class Careful:
    """An evaluator without short cuts, to compare with: all images, full precision, layer by layer.

    Attributes:
        realise: makes the pruned network.
        scored: the evaluator whose statistics and score are done carefully here.
        draw: which of the disjoint sets of calibration images it takes.
    """

    realise: Callable[[Policy], nn.Module]
    scored: Recalibrate
    draw: int = 0

    def again(self) -> Careful | None:
        """The same with other calibration images; None where too few are left, or none are looked at."""
        it, other = self.scored, self.draw + 1
        enough = (other + 1) * (self._images // it.batch) * it.batch <= len(it.task.train)
        return replace(self, draw=other) if it.images and enough else None

    def metric(self, model: nn.Module) -> float:
        """The metric on the whole holdout, with statistics of `reference` images, which `model` then has."""
        it = self.scored
        with forked(it.seed):
            if it.images:
                recalibrate(model, it._drawn(self._images, self.draw), "fp32")
            _refuse_nonfinite(model.eval(), it._probe)
            return float(it.task.metric(model, it.task.holdout))

    @property
    def _images(self) -> int:
        return max(self.scored.images, self.scored.reference)


def _refuse_nonfinite(model: nn.Module, inputs: Tensor) -> None:
    """A network full of NaN still has an accuracy: look at its outputs, too."""
    with torch.inference_mode():
        outputs = model(inputs)
    if isinstance(outputs, Tensor) and not bool(outputs.isfinite().all()):
        raise TrialFailed(_NOT_FINITE)
