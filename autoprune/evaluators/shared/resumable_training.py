"""Training weights that many networks share, step by step, so that it can be stopped anywhere and goes on exactly.

What was reached lies in one safetensors file: parameters and buffers, the optimiser's momenta, and the place in the
data. Every step draws from streams of its own, made of the seed and its number, so that a course that was stopped and
taken up again ends with the weights of one that never was.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from autoprune import bounded
from autoprune.engine.memory import laid_out
from autoprune.errors import ModelError, TrainingFailed, first_line
from autoprune.files import disk
from autoprune.inputs import Inputs, device_of, moved
from autoprune.models.weights import not_finite
from autoprune.task import Batch, Split
from autoprune.train import Recipe, forked, no_batch, pace, sgd

About = Mapping[str, Any]  # as JSON holds it
Lesson = Callable[[int, Inputs, Any], Tensor]  # step, inputs, targets -> loss, whose gradients are there already
Watch = Callable[[int, int], None]  # steps done, of how many

KEPT = 200  # steps between two files
_MOMENTUM = "momentum/"
_SCHEMA = "1"


@dataclass
class Course:
    """A training that can be stopped.

    Attributes:
        module: whose parameters are trained, in place.
        recipe: how.
        seed: of everything random.
        about: what the weights are of: a file is taken up only where it says the same.
        details: what else a file says of them, for those who take it up.
        step: how many steps were made.
        seconds: how long they took.
    """

    module: nn.Module
    recipe: Recipe
    seed: int
    about: About
    details: About
    step: int = 0
    seconds: float = 0.0
    _place: tuple[int, int] = field(default=(0, 0), init=False)  # epoch, batches of it that were learnt from
    _whole: bool = field(default=True, init=False)  # whether weights, step and place belong together

    @property
    def done(self) -> bool:
        """Whether every step was made."""
        return self.step >= self.recipe.steps

    def run(self, split: Split, lesson: Lesson, file: Path | None, watch: Watch) -> None:
        """Make the steps that are left. `file` is written every `KEPT` steps, and when all are made.

        Raises TrainingFailed when loss, gradient or weights are not finite; `file` then holds the last that was
        written. Stopped by Ctrl-C, it holds the last step that was made.
        """
        try:
            self._run(split, lesson, file, watch)
        except KeyboardInterrupt:
            if file is not None and self.step and self._whole:
                self.write(file)
            raise

    def _run(self, split: Split, lesson: Lesson, file: Path | None, watch: Watch) -> None:
        if self.done:
            return
        watch(self.step, self.recipe.steps)
        for place, batch in self._batches(split):
            begun = time.perf_counter()
            self._learn(lesson, place, *batch)
            self.seconds += time.perf_counter() - begun
            if self.step % KEPT == 0 or self.done:
                self._require_finite("weights", sum(float(p.detach().abs().sum()) for p in self._trained.values()))
                if file is not None:
                    self.write(file)
            watch(self.step, self.recipe.steps)
            if self.done:
                break

    def stream(self, step: int) -> np.random.Generator:
        """The random numbers of one step; the same at every call."""
        return np.random.default_rng((self.seed, 1, step))

    def write(self, file: Path) -> None:
        """Write what was reached, so that `file` holds all of it or what it held before. Raises RunError."""
        facts = {
            "about": dict(self.about),
            "details": dict(self.details),
            "recipe": dataclasses.asdict(self.recipe),
            "seed": self.seed,
            "step": self.step,
            "seconds": self.seconds,
            "place": list(self._place),
        }
        tensors = self._tensors() | ({} if self.done else self._momenta())
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        facts["sha256"] = _digest(plain)
        with disk.refused(file):
            disk.write_bytes(file, safetensors.torch.save(plain, {"schema": _SCHEMA, "course": json.dumps(facts)}))

    def take_up(self, file: Path, agree: Sequence[str] = ()) -> About:
        """Go on from what `file` holds; gives its `details`.

        What it is of must be what this is of, and so must those that `agree` names: "recipe", "seed" or one of the
        details. The precision of a recipe is the machine's. Raises ModelError where they are not, or it is damaged.
        """
        facts, tensors = _read(file)
        own = {**self.about, **self._agreeing(self.details, self.recipe, self.seed, agree)}
        mine: dict[str, Any] = json.loads(json.dumps(own))
        theirs = {**facts.about, **self._agreeing(facts.details, facts.recipe, facts.seed, agree)}
        if differing := [key for key, value in mine.items() if theirs.get(key) != value]:
            what = " and another ".join(differing)
            raise ModelError(f"{file} was trained for another {what}; train anew for this one")
        self._fill(self._tensors(), {n: t for n, t in tensors.items() if not n.startswith(_MOMENTUM)}, file)
        for name, tensor in tensors.items():
            parameter = self._trained.get(name.removeprefix(_MOMENTUM))
            if name.startswith(_MOMENTUM) and parameter is not None:
                self._optimizer.state[parameter]["momentum_buffer"] = tensor.to(parameter)
        self.recipe, self.seed = facts.recipe, facts.seed
        self.step, self.seconds, self._place = facts.step, facts.seconds, facts.place
        return facts.details

    @staticmethod
    def _agreeing(details: About, recipe: Recipe, seed: int, names: Sequence[str]) -> About:
        known = {**details, "recipe": {**dataclasses.asdict(recipe), "precision": ""}, "seed": seed}
        return {name: known.get(name) for name in names}

    def _learn(self, lesson: Lesson, place: tuple[int, int], inputs: Inputs, targets: Any) -> None:
        """One step, on the batch before `place`."""
        device = device_of(self.module)
        pace(self._optimizer, self.recipe, self.step + 1)
        self._optimizer.zero_grad(set_to_none=True)
        with forked(int(self.stream(self.step).integers(2**31))):
            loss = lesson(self.step, laid_out(moved(inputs, device)), moved(targets, device))
        self._require_finite("loss", loss.item())
        norm = nn.utils.clip_grad_norm_(list(self._trained.values()), self.recipe.clip)
        self._require_finite("gradient", norm.item())
        self._whole = False
        self._optimizer.step()
        self.step, self._place = self.step + 1, place
        self._whole = True

    def _batches(self, split: Split) -> Iterator[tuple[tuple[int, int], Batch]]:
        """Epoch after epoch, from the place that was reached: each batch with the place behind it.

        What augments with torch's own generator finds it seeded for each batch, also for those that are passed over.
        """
        epoch, learnt = self._place
        while True:
            seed = int(np.random.default_rng((self.seed, 0, epoch)).integers(2**31))
            shuffled = iter(split.shuffled(self.recipe.batch, torch.Generator().manual_seed(seed)))
            number = 0
            while (batch := self._drawn(shuffled, epoch, number)) is not None:
                number += 1
                if number > learnt:
                    yield (epoch, number), batch
            if not number:
                raise no_batch(split, self.recipe)
            epoch, learnt = epoch + 1, 0

    def _drawn(self, batches: Iterator[Batch], epoch: int, number: int) -> Batch | None:
        with forked(int(np.random.default_rng((self.seed, 2, epoch, number)).integers(2**31))):
            return next(batches, None)

    @cached_property
    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}

    @cached_property
    def _optimizer(self) -> torch.optim.SGD:
        return sgd(self.module, self.recipe)

    def _tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers, each once, however many modules share it."""
        return dict(self.module.named_parameters()) | dict(self.module.named_buffers())

    def _momenta(self) -> dict[str, Tensor]:
        state = self._optimizer.state
        found = {name: state[p].get("momentum_buffer") for name, p in self._trained.items() if p in state}
        return {_MOMENTUM + name: momentum for name, momentum in found.items() if momentum is not None}

    def _fill(self, own: Mapping[str, Tensor], found: Mapping[str, Tensor], file: Path) -> None:
        shapes, wanted = ({name: (t.shape, t.dtype) for name, t in those.items()} for those in (found, own))
        if differing := sorted(name for name in wanted.keys() | shapes.keys() if wanted.get(name) != shapes.get(name)):
            raise ModelError(f"{file} does not hold this network's weights ({differing[0]!r} differs); train anew")
        if faults := [fault for name in found if (fault := not_finite(name, found[name]))]:
            raise ModelError(f"{file}: {faults[0]}; train anew")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(found[name])

    def _require_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise TrainingFailed(
                f"the training {what} is {value} at step {self.step + 1} of {self.recipe.steps}; "
                f"begin a new run with another recipe, such as a learning rate (lr of the evaluator) below "
                f"{self.recipe.lr:g}"
            )


class _Facts(pydantic.BaseModel):
    """What a file says of its tensors."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    about: dict[str, Any]
    details: dict[str, Any]
    recipe: Recipe
    seed: pydantic.NonNegativeInt
    step: pydantic.NonNegativeInt
    seconds: pydantic.NonNegativeFloat
    place: tuple[pydantic.NonNegativeInt, pydantic.NonNegativeInt]
    sha256: str


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Of the values of all tensors, in the order of their names."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode())
        found.update(tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _read(file: Path) -> tuple[_Facts, dict[str, Tensor]]:
    try:
        bounded.require_regular(file)
    except OSError as wrong:
        raise ModelError(
            f"{file} cannot be read ({wrong.strerror}); a file that training wrote is needed there"
        ) from None
    try:
        with safetensors.safe_open(file, "pt") as opened:
            words = opened.metadata() or {}
            if words.get("schema") != _SCHEMA:
                raise ValueError(f"its schema is {words.get('schema')!r}, not {_SCHEMA!r}")
            facts = _Facts.model_validate_json(json.dumps(bounded.parsed(words["course"])))
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
            if _digest(tensors) != facts.sha256:
                raise ValueError("its tensors are not those that were written")
            return facts, tensors
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as wrong:
        raise ModelError(f"{file} is no file that training wrote ({first_line(wrong)})") from None
