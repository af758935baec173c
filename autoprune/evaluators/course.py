"""Training weights that many networks share, step by step, so that it can be stopped anywhere and goes on exactly.

What was reached lies in one safetensors file: parameters and buffers, the optimiser's momenta, and the place in the
data. Every step draws from streams of its own, made of the seed and its number, so that a course that was stopped and
taken up again ends with the weights of one that never was.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from autoprune.errors import ConfigError, ModelError, RunError, TrainingFailed
from autoprune.layout import laid_out
from autoprune.run import write_bytes
from autoprune.task import Batch, Split
from autoprune.train import Recipe, decayed, forked, ramp

About = Mapping[str, Any]  # as JSON holds it
Lesson = Callable[[int, Tensor, Tensor], Tensor]  # step, inputs, targets -> loss, whose gradients are there already
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
        limits: what else a file says of them, for those who take it up.
        step: how many steps were made.
        seconds: how long they took.
    """

    module: nn.Module
    recipe: Recipe
    seed: int
    about: About
    limits: About
    step: int = 0
    seconds: float = 0.0
    _place: tuple[int, int] = field(default=(0, 0), init=False)  # epoch, batches of it that were learnt from

    @property
    def done(self) -> bool:
        """Whether every step was made."""
        return self.step >= self.recipe.steps

    def run(self, split: Split, lesson: Lesson, file: Path | None, watch: Watch) -> None:
        """Make the steps that are left. `file` is written every `KEPT` steps, and when all are made.

        Raises TrainingFailed when loss or gradient is not finite; `file` then holds the last that was written.
        """
        if self.done:
            return
        watch(self.step, self.recipe.steps)
        for place, batch in self._batches(split):
            begun = time.perf_counter()
            self._learn(lesson, *batch)
            self.step, self._place = self.step + 1, place
            self.seconds += time.perf_counter() - begun
            if file is not None and (self.step % KEPT == 0 or self.done):
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
            "limits": dict(self.limits),
            "recipe": dataclasses.asdict(self.recipe),
            "seed": self.seed,
            "step": self.step,
            "seconds": self.seconds,
            "place": list(self._place),
        }
        tensors = self._tensors() | ({} if self.done else self._momenta())
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        try:
            write_bytes(file, safetensors.torch.save(plain, {"schema": _SCHEMA, "course": json.dumps(facts)}))
        except OSError as wrong:
            raise RunError(f"{file} cannot be written ({wrong.strerror or wrong})") from None

    def take_up(self, file: Path, *, same_recipe: bool) -> About:
        """Go on from what `file` holds; gives its `limits`. With `same_recipe`, recipe and seed must be this one's.

        Raises ModelError where it is of something else, or damaged.
        """
        facts, tensors = _read(file)
        mine: dict[str, Any] = json.loads(json.dumps(dict(self.about)))
        theirs = dict(facts.about)
        if same_recipe:
            mine |= {"recipe": dataclasses.asdict(self.recipe), "seed": self.seed}
            theirs |= {"recipe": dataclasses.asdict(facts.recipe), "seed": facts.seed}
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
        return facts.limits

    def _learn(self, lesson: Lesson, inputs: Tensor, targets: Tensor) -> None:
        """One step."""
        device = next(self.module.parameters()).device
        for group in self._optimizer.param_groups:
            group["lr"] = self.recipe.lr * ramp((self.step + 0.5) / self.recipe.steps, self.recipe.warmup)
        self._optimizer.zero_grad(set_to_none=True)
        with forked(int(self.stream(self.step).integers(2**31))):
            loss = lesson(self.step, laid_out(inputs.to(device)), targets.to(device))
        self._require_finite("loss", loss.item())
        norm = nn.utils.clip_grad_norm_(list(self._trained.values()), self.recipe.clip)
        self._require_finite("gradient", norm.item())
        self._optimizer.step()

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
                size = f"{len(split)} images give no batch of {self.recipe.batch}"
                raise ConfigError(f"the training split's {size}; a smaller batch is right")
            epoch, learnt = epoch + 1, 0

    def _drawn(self, batches: Iterator[Batch], epoch: int, number: int) -> Batch | None:
        with forked(int(np.random.default_rng((self.seed, 2, epoch, number)).integers(2**31))):
            return next(batches, None)

    @cached_property
    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}

    @cached_property
    def _optimizer(self) -> torch.optim.SGD:
        groups = decayed(self.module, self.recipe.weight_decay)
        return torch.optim.SGD(groups, lr=self.recipe.lr, momentum=0.9, nesterov=True)

    def _tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers, each once, however many modules share it."""
        return dict(self.module.named_parameters()) | dict(self.module.named_buffers())

    def _momenta(self) -> dict[str, Tensor]:
        state = self._optimizer.state
        found = {name: state[p].get("momentum_buffer") for name, p in self._trained.items() if p in state}
        return {_MOMENTUM + name: momentum for name, momentum in found.items() if momentum is not None}

    def _fill(self, own: Mapping[str, Tensor], found: Mapping[str, Tensor], file: Path) -> None:
        shapes, wanted = ({name: tuple(t.shape) for name, t in those.items()} for those in (found, own))
        if missing := sorted(name for name in wanted.keys() | shapes.keys() if wanted.get(name) != shapes.get(name)):
            raise ModelError(f"{file} does not hold this network's weights ({missing[0]!r} differs); train anew")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(found[name])

    def _require_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise TrainingFailed(
                f"the training {what} is {value} at step {self.step + 1} of {self.recipe.steps}; "
                f"begin a new run with a learning rate (lr of the evaluator) below {self.recipe.lr:g}"
            )


@dataclass(frozen=True)
class _Facts:
    """What a file says of its tensors."""

    about: About
    limits: About
    recipe: Recipe
    seed: int
    step: int
    seconds: float
    place: tuple[int, int]


def _read(file: Path) -> tuple[_Facts, dict[str, Tensor]]:
    try:
        with safetensors.safe_open(file, "pt") as opened:
            words = opened.metadata() or {}
            if words.get("schema") != _SCHEMA:
                raise ValueError(f"its schema is {words.get('schema')!r}, not {_SCHEMA!r}")
            facts = json.loads(words["course"])
            epoch, learnt = facts.pop("place")
            read = _Facts(**facts | {"recipe": Recipe(**facts["recipe"]), "place": (int(epoch), int(learnt))})
            return read, {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
    except FileNotFoundError:
        raise ModelError(f"{file} does not exist; a file that training wrote is needed there") from None
    except (safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError) as wrong:
        raise ModelError(f"{file} is no file that training wrote ({wrong})") from None
