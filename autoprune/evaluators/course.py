"""Training weights that many networks share, step by step, so that it can be stopped anywhere and goes on exactly.

What was reached lies in one safetensors file: the parameters, the optimiser's momenta, and the place in the data. Every
step draws from a stream of its own, (seed, step), and every epoch from another, so that a course that was stopped and
taken up again ends with the weights of one that never was.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from autoprune.errors import ModelError, RunError, TrainingFailed
from autoprune.layout import laid_out
from autoprune.run import sync_folder
from autoprune.task import Batch, Split
from autoprune.train import Recipe, decayed, forked, ramp

Watch = Callable[[int, int], None]  # steps done, of how many
About = Mapping[str, Any]  # as JSON holds it
Lesson = Callable[[int, Tensor, Tensor], Tensor]  # step, inputs, targets -> loss, whose gradients are there already

KEPT = 200  # steps between two files
_MOMENTUM = "momentum/"
_SCHEMA = 1


@dataclass
class Course:
    """A training that can be stopped.

    Attributes:
        module: whose parameters are trained, in place.
        recipe: how.
        seed: of everything random.
        about: what the weights are of: a file is taken up only where it says the same.
        step: how many steps were made.
        seconds: how long they took.
    """

    module: nn.Module
    recipe: Recipe
    seed: int
    about: About
    step: int = 0
    seconds: float = 0.0
    _place: tuple[int, int] = (0, 0)  # epoch, batches of it that were seen
    _momenta: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def done(self) -> bool:
        """Whether every step was made."""
        return self.step >= self.recipe.steps

    def run(self, split: Split, lesson: Lesson, file: Path | None, watch: Watch) -> None:
        """Make the steps that are left. `file` is written every `KEPT` steps, and when all are made.

        Raises TrainingFailed when loss or gradient is not finite; `file` then holds the last that was written.
        """
        recipe, parameters = self.recipe, dict(self.module.named_parameters())
        optimizer = torch.optim.SGD(
            decayed(self.module, recipe.weight_decay), lr=recipe.lr, momentum=0.9, nesterov=True
        )
        for name, momentum in self._momenta.items():
            optimizer.state[parameters[name]]["momentum_buffer"] = momentum
        device = next(self.module.parameters()).device
        batches = self._batches(split)
        watch(self.step, recipe.steps)
        while not self.done:
            begun = time.perf_counter()
            inputs, targets = next(batches)
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * ramp((self.step + 0.5) / recipe.steps, recipe.warmup)
            optimizer.zero_grad(set_to_none=True)
            with forked(int(self.stream(self.step).integers(2**31))):
                loss = lesson(self.step, laid_out(inputs.to(device)), targets.to(device))
            self._require_finite("loss", loss.item(), file)
            norm = nn.utils.clip_grad_norm_([p for p in parameters.values() if p.grad is not None], recipe.clip)
            self._require_finite("gradient", norm.item(), file)
            optimizer.step()
            self.step += 1
            self.seconds += time.perf_counter() - begun
            if file is not None and (self.step % KEPT == 0 or self.done):
                self._momenta = {
                    name: optimizer.state[p]["momentum_buffer"]
                    for name, p in parameters.items()
                    if p in optimizer.state
                }
                self.write(file)
            watch(self.step, recipe.steps)
        self._momenta = {}

    def stream(self, step: int) -> np.random.Generator:
        """The random numbers of one step; the same at every call."""
        return np.random.default_rng((self.seed, 1, step))

    def write(self, file: Path) -> None:
        """Write what was reached, so that `file` holds all of it or what it held before."""
        facts = {
            "about": dict(self.about),
            "recipe": dataclasses.asdict(self.recipe),
            "seed": self.seed,
            "step": self.step,
            "seconds": self.seconds,
            "place": list(self._place),
        }
        momenta = {} if self.done else {_MOMENTUM + name: tensor for name, tensor in self._momenta.items()}
        tensors = {
            name: t.detach().cpu().contiguous() for name, t in (*self.module.state_dict().items(), *momenta.items())
        }
        part = file.with_name(f"{file.name}.part")
        try:
            safetensors.torch.save_file(tensors, part, {"schema": str(_SCHEMA), "course": json.dumps(facts)})
            part.replace(file)
            sync_folder(file.parent)
        except (OSError, safetensors.SafetensorError) as wrong:
            part.unlink(missing_ok=True)
            raise RunError(f"{file} cannot be written ({wrong})") from None

    def take_up(self, file: Path) -> None:
        """Go on from what `file` holds, by the recipe and the seed that it was begun with.

        Raises ModelError where it is of something else, or damaged.
        """
        facts, tensors = _read(file)
        if differing := [key for key, value in self.about.items() if facts["about"].get(key) != value]:
            raise ModelError(
                f"{file} was trained for another {' and another '.join(differing)}; train anew for this one"
            )
        own = {name: t for name, t in tensors.items() if not name.startswith(_MOMENTUM)}
        try:
            self.module.load_state_dict(own)
        except RuntimeError as wrong:
            raise ModelError(f"{file} does not hold this network's weights ({' '.join(str(wrong).split())})") from None
        self._momenta = {n.removeprefix(_MOMENTUM): t for n, t in tensors.items() if n.startswith(_MOMENTUM)}
        self.recipe, self.seed = Recipe(**facts["recipe"]), int(facts["seed"])
        self.step, self.seconds = int(facts["step"]), float(facts["seconds"])
        epoch, seen = facts["place"]
        self._place = int(epoch), int(seen)

    def _batches(self, split: Split) -> Iterator[Batch]:
        """Epoch after epoch, from the place that was reached."""
        while True:
            epoch, skipped = self._place
            seed = int(np.random.default_rng((self.seed, 0, epoch)).integers(2**31))
            shuffled = split.shuffled(self.recipe.batch, torch.Generator().manual_seed(seed))
            for number, batch in enumerate(shuffled):
                if number >= skipped:
                    self._place = epoch, number + 1
                    yield batch
            self._place = epoch + 1, 0

    def _require_finite(self, what: str, value: float, file: Path | None) -> None:
        if not math.isfinite(value):
            kept = f"; {file} holds the weights of an earlier step" if file is not None and file.exists() else ""
            raise TrainingFailed(
                f"the training {what} is {value} at step {self.step + 1} of {self.recipe.steps}; "
                f"a learning rate below {self.recipe.lr:g} is right{kept}"
            )


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safetensors.safe_open(file, "pt") as opened:
            facts: dict[str, Any] = json.loads((opened.metadata() or {})["course"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
    except FileNotFoundError:
        raise ModelError(f"{file} does not exist; a file that training wrote is needed there") from None
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as wrong:
        raise ModelError(f"{file} is no file that training wrote ({wrong})") from None
    return facts, tensors
