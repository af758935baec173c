"""The finetune of a network that is kept: by our loop with the recipe, or by a whole loop of the user's own.

A loop of one's own is a function, named in `[finetune] use`. It is called with the network, which it trains in place,
and with those of these that it names: `epochs`, `task`, `train` (the training split), `loss`, `teacher`, `lr`, `batch`,
`seed`, `watch`. What comes back must be that network, with the same layers and finite weights.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from autoprune.addresses import blamed
from autoprune.errors import ConfigError
from autoprune.inputs import device_of
from autoprune.task import Task
from autoprune.train import (
    Recipe,
    forked,
    optimizer_of,
    own,
    require_finite,
    restart,
    schedule_of,
    teacher_of as copy_of,
    train,
)

Told = Callable[[int, float], None]  # the steps that are done, the loss


def finetune(
    model: nn.Module,
    task: Task,
    recipe: Recipe,
    *,
    seed: int,
    anew: bool = False,
    watch: Told = lambda done, loss: None,
) -> None:
    """Train `model` in place, from the weights that it has or `anew`; leaves it in eval mode.

    `watch` hears of every step; of a loop of the user's own, of what that tells it. Raises TrialFailed where training
    fails, and ConfigError for a loop, an optimizer, a schedule or a teacher that is none.
    """
    if anew:
        restart(model, seed)
    if not recipe.use:
        teacher = teacher_of(task, recipe) if recipe.distill else None
        train(model, task.train, task.loss, recipe, seed=seed, teacher=teacher, watch=watch)
        return
    device, before = device_of(model), _shapes(model)
    with forked(seed), blamed(f"the finetune {recipe.use!r}"):
        found = _called(model, task, recipe, seed, watch)
    if found is not None and found is not model:
        raise ConfigError(
            f"the finetune {recipe.use!r} returns a {type(found).__name__}; it trains its network in place"
        )
    if _shapes(model) != before:
        raise ConfigError(f"the finetune {recipe.use!r} changes the network's layers; it should change their values")
    model.to(device).zero_grad(set_to_none=True)
    require_finite(model, f"the finetune {recipe.use!r}")
    model.eval()


def check(recipe: Recipe) -> None:
    """Raise ConfigError for what the recipe names and is not there, before data are read."""
    schedule_of(recipe)
    optimizer_of(nn.Linear(1, 1), recipe)
    if recipe.teacher:
        own("teacher", recipe.teacher)
    if recipe.use:
        _taken(own("finetune", recipe.use), recipe.use)


def needs_loss(recipe: Recipe) -> bool:
    """Whether the task's loss on labels is needed."""
    return recipe.steps > 0 and not recipe.use and recipe.distill < 1


def takes_data(recipe: Recipe) -> bool:
    """Whether a loop of the user's own takes the training split that it is given, so that it can be tried on a part."""
    return bool({"task", "train"} & set(_taken(own("finetune", recipe.use), recipe.use)))


def teacher_of(task: Task, recipe: Recipe) -> nn.Module:
    """The network to learn from: the user's, else a copy of the dense one."""
    if not recipe.teacher:
        return copy_of(task.model)
    with blamed(f"the teacher {recipe.teacher!r}"):
        made = own("teacher", recipe.teacher)()
    if not isinstance(made, nn.Module):
        raise ConfigError(f"the teacher {recipe.teacher!r} returns a {type(made).__name__}; a network is right")
    return copy.deepcopy(made).to(device_of(task.model)).eval().requires_grad_(False)


def _called(model: nn.Module, task: Task, recipe: Recipe, seed: int, watch: Told) -> Any:
    loop = own("finetune", recipe.use)
    told: dict[str, Any] = {
        "epochs": int(recipe.epochs) if recipe.epochs == int(recipe.epochs) else recipe.epochs,
        "task": task,
        "train": task.train,
        "loss": task.loss,
        "lr": recipe.lr,
        "batch": recipe.batch,
        "seed": seed,
        "watch": watch,
    }
    names = _taken(loop, recipe.use)
    if "teacher" in names:
        told["teacher"] = teacher_of(task, recipe)
    return loop(model, **{name: told[name] for name in names})


_GIVEN = ("epochs", "task", "train", "loss", "teacher", "lr", "batch", "seed", "watch")


def _taken(loop: Callable[..., Any], address: str) -> list[str]:
    """What of all that it could be given a loop takes, after the network."""
    takes = list(inspect.signature(loop).parameters.values())
    if not takes:
        raise ConfigError(f"the finetune {address!r} takes nothing; its first argument is the network")
    rest = takes[1:]
    if any(one.kind is one.VAR_KEYWORD for one in rest):
        return list(_GIVEN)
    wanted = [one.name for one in rest if one.kind is not one.VAR_POSITIONAL]
    unknown = [one.name for one in rest if one.name not in _GIVEN and one.default is one.empty and one.name in wanted]
    if unknown:
        raise ConfigError(f"the finetune {address!r} takes {unknown[0]!r}; there are {', '.join(_GIVEN)}")
    return [name for name in wanted if name in _GIVEN]


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
