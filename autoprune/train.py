"""Training: one loop for the recipe of the embedded network, for evaluators and for the final finetune.

Everything random comes from the seed, so that the same call gives the same weights on the same machine.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune import plugins
from autoprune.addresses import blamed, is_address
from autoprune.copies import copied
from autoprune.engine.memory import laid_out, lay_out
from autoprune.errors import ConfigError, ModelError, TrialFailed
from autoprune.inputs import Inputs, call, device_of, moved, shapes
from autoprune.metrics import logits
from autoprune.task import Batch, Loss, Split, loss_of

Schedule = Callable[[float], float]  # how much of the fall is done, in [0, 1] -> share of the peak learning rate


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is trained.

    Attributes:
        steps: gradient steps; 0 trains nothing.
        batch: samples a step.
        lr: peak learning rate of SGD with Nesterov momentum 0.9; it rises over the first `warmup` share of the steps
            and falls along a cosine to zero.
        weight_decay: on weights of two dimensions and more only.
        label_smoothing: in [0, 1); cross-entropy only.
        distill: weight of the dense network's softened outputs in the loss, in [0, 1]. Hinton et al. 2015.
        temperature: of that softening, > 0.
        precision: "fp32" or "bf16" (autocast).
        clip: largest gradient norm.
        optimizer: "sgd", "adamw", or the address of a function of groups of parameters and `lr`, as torch's are.
        schedule: how the learning rate falls after its rise: "cosine", "linear", "constant", or the address of a
            function of how much is done, in [0, 1], that gives the share of the peak.
        accumulate: parts that a batch is computed in, one after the other, so that it needs less memory.
        teacher: the address of a function that returns the network to distill from, in place of the dense one.
        use: the address of a whole training loop, in place of this one: see `autoprune.finetuning`.
        epochs: what such a loop is told.
    """

    steps: int
    batch: int = 128
    lr: float = 0.1
    weight_decay: float = 5e-4
    warmup: float = 0.2
    label_smoothing: float = 0.0
    distill: float = 0.0
    temperature: float = 4.0
    precision: str = "fp32"
    clip: float = 5.0
    optimizer: str = "sgd"
    schedule: str = "cosine"
    accumulate: int = 1
    teacher: str = ""
    use: str = ""
    epochs: float = 0.0

    @classmethod
    def of(cls, settings: object, *, steps: int, precision: str) -> Recipe:
        """With what `settings` has under the names of these attributes."""
        rest = {one.name: getattr(settings, one.name) for one in fields(cls) if hasattr(settings, one.name)}
        return cls(**{**rest, "steps": steps, "precision": precision})


def train(
    model: nn.Module,
    split: Split,
    loss: Loss,
    recipe: Recipe,
    *,
    seed: int,
    teacher: nn.Module | None = None,
    watch: Callable[[int, float], None] = lambda step, value: None,
) -> None:
    """Train `model` in place; leaves it in eval mode.

    `watch(step, loss)` is called after every step, counted from 1. `teacher` is only read.
    Raises TrialFailed when the loss, or a weight in the end, is not finite, and where the loss or the data raise; and
    ConfigError where there is nothing to learn from a teacher, whose outputs are no logits of classes.
    """
    if teacher is not None:
        require_loss_of_classes(loss, recipe.distill)
    lay_out(model)
    optimizer, fall = optimizer_of(model, recipe), schedule_of(recipe)
    parameters = [p for p in model.parameters() if p.requires_grad]
    device = device_of(model)
    model.train()
    with forked(seed):
        batches = _endless(split, recipe, seed)
        for step in range(1, recipe.steps + 1):
            pace(optimizer, recipe, step, fall)
            optimizer.zero_grad(set_to_none=True)
            reached = 0.0
            for inputs, targets in itertools.islice(batches, recipe.accumulate):
                value = _loss(model, moved(inputs, device), moved(targets, device), loss, recipe, teacher)
                reached += value.item() / recipe.accumulate
                (value / recipe.accumulate).backward()  # type: ignore[no-untyped-call]
            if not math.isfinite(reached):
                raise TrialFailed(f"the training loss is {reached} at step {step} of {recipe.steps}")
            nn.utils.clip_grad_norm_(parameters, recipe.clip)
            optimizer.step()
            watch(step, reached)
    require_finite(model, f"{recipe.steps} steps of training")
    model.eval()


def require_finite(model: nn.Module, what: str) -> None:
    """Raise TrialFailed where a weight that is trained is not finite after `what`."""
    if not all(bool(p.isfinite().all()) for p in model.parameters() if p.requires_grad):
        raise TrialFailed(f"the weights are not finite after {what}")


def restart(model: nn.Module, seed: int) -> None:
    """Give `model` the weights of a network that was never trained, each module as it draws them itself.

    No parameter is frozen afterwards. Raises ModelError for a module that has parameters and no way to draw them.
    """
    model.requires_grad_(True)
    with forked(seed):
        for name, module in model.named_modules():
            draw = getattr(module, "reset_parameters", None)
            if callable(draw):
                draw()
            elif any(True for _ in module.parameters(recurse=False)):
                what = f"{name or 'the network'} ({type(module).__name__})"
                raise ModelError(f"{what} cannot be trained from scratch: it has parameters and no reset_parameters()")


def thaw(model: nn.Module) -> None:
    """Let a network that was frozen as a whole (to be used, not trained) be trained as a whole."""
    if not any(p.requires_grad for p in model.parameters()):
        model.requires_grad_(True)


def teacher_of(model: nn.Module) -> nn.Module:
    """A copy of `model` to learn from."""
    teacher = copied(model).eval()
    lay_out(teacher)
    return teacher


@contextlib.contextmanager
def forked(seed: int) -> Iterator[None]:
    """Inside, torch's global generator is seeded; afterwards the caller's state is back."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _endless(split: Split, recipe: Recipe, seed: int) -> Iterator[Batch]:
    """Every part of every step."""
    generator = torch.Generator().manual_seed(seed)
    done, wanted = 0, recipe.steps * recipe.accumulate
    while done < wanted:
        before = done
        for batch in split.shuffled(max(1, recipe.batch // recipe.accumulate), generator):
            if done == wanted:
                return
            done += 1
            yield batch
        if done == before:
            raise no_batch(split, recipe)


def no_batch(split: Split, recipe: Recipe) -> ConfigError:
    """What is wrong with a split of which no batch can be made."""
    size = f"{len(split)} images give no batch of {recipe.batch}"
    return ConfigError(f"the training split's {size}; a smaller batch is right")


def sgd(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """The optimizer of all parameters of `model` that are trained."""
    return torch.optim.SGD(_decayed(model, recipe.weight_decay), lr=recipe.lr, momentum=0.9, nesterov=True)


def optimizer_of(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimizer of a recipe. Raises ConfigError for one that is not known, or is none."""
    if recipe.optimizer == "sgd":
        return sgd(model, recipe)
    groups = _decayed(model, recipe.weight_decay)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr)
    make = own("optimizer", recipe.optimizer, ("sgd", "adamw"))
    with blamed(f"the optimizer {recipe.optimizer!r}"):
        made = make(groups, lr=recipe.lr)
    if not isinstance(made, torch.optim.Optimizer):
        raise ConfigError(f"optimizer {recipe.optimizer!r} gives a {type(made).__name__}; an Optimizer is right")
    return made


def schedule_of(recipe: Recipe) -> Schedule:
    """The schedule of a recipe. Raises ConfigError for one that is not known."""
    return SCHEDULES.get(recipe.schedule) or own("schedule", recipe.schedule, tuple(SCHEDULES))


def own(kind: str, address: str, ours: Sequence[str] = ()) -> Callable[..., Any]:
    """Something of the user's own at an address. Raises ConfigError for what is none, naming those of `ours`."""
    if not is_address(address):
        names = f"{', '.join(ours)}, or file.py:function" if ours else "file.py:function"
        raise ConfigError(f"no {kind} is called {address!r}; {names} is right")
    return plugins.at(address, kind, address)


def pace(optimizer: torch.optim.Optimizer, recipe: Recipe, step: int, fall: Schedule | None = None) -> None:
    """Set the learning rate of a step, counted from 1; it falls along a cosine unless `fall` says otherwise."""
    share = ramp((step - 0.5) / recipe.steps, recipe.warmup, fall or cosine)
    for group in optimizer.param_groups:
        group["lr"] = recipe.lr * share


def _decayed(model: nn.Module, decay: float) -> list[dict[str, object]]:
    free = [p for p in model.parameters() if p.requires_grad and p.dim() < 2]
    rest = [p for p in model.parameters() if p.requires_grad and p.dim() >= 2]
    return [{"params": rest, "weight_decay": decay}, {"params": free, "weight_decay": 0.0}]


def cosine(done: float) -> float:
    """Share of the peak learning rate after `done` of its fall, both in [0, 1]."""
    return 0.5 * (1 + math.cos(math.pi * done))


SCHEDULES: Mapping[str, Schedule] = {"cosine": cosine, "linear": lambda done: 1 - done, "constant": lambda done: 1.0}


def ramp(done: float, warmup: float, fall: Schedule = cosine) -> float:
    """Share of the peak learning rate after `done` of the steps, both in [0, 1]. Raises TrialFailed where `fall` does.

    It rises in the first `warmup` of them.
    """
    if done < warmup:
        return done / warmup
    with blamed("the schedule"):
        return float(fall((done - warmup) / (1 - warmup)))


def _loss(
    model: nn.Module, inputs: Inputs, targets: Any, loss: Loss, recipe: Recipe, teacher: nn.Module | None
) -> Tensor:
    with torch.autocast(device_of(model).type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        inputs = laid_out(inputs)
        outputs = moved(call(model, inputs), torch.float32)
        if teacher is None or not recipe.distill:
            return _of_labels(outputs, targets, loss, recipe)
        with torch.no_grad():
            taught = moved(call(teacher, inputs), torch.float32)
        value = 0.0 if recipe.distill == 1 else (1 - recipe.distill) * _of_labels(outputs, targets, loss, recipe)
    require_classes(logits(outputs), recipe.distill)
    t = recipe.temperature
    soft = functional.kl_div(
        functional.log_softmax(logits(outputs) / t, 1),
        functional.log_softmax(logits(taught) / t, 1),
        reduction="batchmean",
        log_target=True,
    )
    return value + recipe.distill * t * t * soft


def require_loss_of_classes(loss: Loss, distill: float) -> None:
    """Raise ConfigError where `distill` is asked for though the task's own loss says that outputs are no logits."""
    judged = loss is functional.cross_entropy or isinstance(loss, nn.CrossEntropyLoss)
    if distill and not judged:
        raise ConfigError(f"distill={distill} is for tasks with a cross-entropy as loss; distill = 0 is right for this")


def require_classes(outputs: Any, distill: float) -> None:
    """Raise ConfigError where outputs are not (n, classes, ...), from which there is something to learn."""
    if not isinstance(outputs, Tensor) or outputs.dim() < 2 or outputs.shape[1] < 2:
        kind = "of shape" if isinstance(outputs, Tensor) else f"a {type(outputs).__name__} of"
        given = f"these are {kind} {shapes(outputs)}"
        raise ConfigError(f"distill={distill} is for outputs (n, classes), and {given}; distill = 0 is right for them")


def _of_labels(outputs: Any, targets: Any, loss: Loss, recipe: Recipe) -> Tensor:
    if recipe.label_smoothing and loss is functional.cross_entropy and targets is not None:
        return functional.cross_entropy(logits(outputs), targets, label_smoothing=recipe.label_smoothing)
    return loss_of(loss, outputs, targets)
