"""How trials are recovered and scored fast, with what is prepared once, when the first of them comes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from autoprune.engine import memory
from autoprune.evaluators.bench import Bench
from autoprune.evaluators.recovery.careful import Careful
from autoprune.evaluators.recovery.recovery import Ready, Recovery
from autoprune.evaluators.recovery.sampling import Sampling
from autoprune.evaluators.recovery.scorer import Scorer, scorer
from autoprune.protocols import Score
from autoprune.structure.prune import Candidate
from autoprune.train import forked
from autoprune.values.space import Policy

_TIDY = 50  # scores after which freed memory is given back


@dataclass
class Fast:
    """Recovers and scores candidates.

    Attributes:
        bench: what the evaluator stands on.
        sampling: how many images are looked at.
        realise: makes the networks that tell what is peculiar about these images.
    """

    bench: Bench
    sampling: Sampling
    realise: Callable[[Policy], Candidate]

    def __post_init__(self) -> None:
        self._scored = 0

    def recover(self, candidate: Candidate) -> Ready:
        """The same with the statistics of few images, corrected by what the probes say of those images."""
        with forked(self.bench.seed):
            return self.recovery(candidate)

    def score(self, candidate: Candidate) -> Score:
        """The metric on the images that tell networks apart, mapped to all; of what has not recovered, as it is."""
        with forked(self.bench.seed):
            metric = self.scorer(candidate)
        self._scored += 1
        if self._scored % _TIDY == 0:
            memory.trim()
        return Score(metric)

    def careful(self) -> Careful:
        """The same without the short cuts."""
        return Careful(self.bench, self.sampling, self.realise)

    @cached_property
    def recovery(self) -> Recovery:
        """On ResNet-56 its probes take twenty seconds."""
        with forked(self.bench.seed):
            return Recovery.of(self.bench, self.sampling, self.realise)

    @cached_property
    def scorer(self) -> Scorer:
        """Of the same probes."""
        with forked(self.bench.seed):
            return scorer(self.bench, self.sampling, self.recovery, self.realise)

    @property
    def notes(self) -> tuple[str, ...]:
        """How scores are computed; nothing before the first."""
        found: tuple[str, ...] = ()
        if "recovery" in vars(self) and isinstance(self.recovery.fuser, str):
            found = (f"Networks are scored layer by layer: {self.recovery.fuser}.",)
        elif "recovery" in vars(self) and self.bench.precision == "int8":
            found = ("Networks are scored with weights and activations of 8 bits; the report's figures are not.",)
        return found + (self.scorer.notes if "scorer" in vars(self) else ())
