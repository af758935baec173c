"""What stands in the place of a module that is left out: it has no weights, and answers with what was handed to it.

An answer is plain data, so that files can hold it: `None`; ("pass", argument), the tensor that came as that argument;
("zero", argument), a single zero of its type; ("tuple", answers). An argument is its place or its name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch import nn

from autoprune.errors import ModelError

Argument = int | str
Answer = tuple[str, Any] | None  # of "pass", "zero" and "tuple", see above

_NUMBERS = (bool, int, float, str, type(None))


class Skipped(nn.Module):
    """A module that was left out.

    Attributes:
        answer: what it answers, see above.
    """

    def __init__(self, answer: Answer, instead_of: nn.Module) -> None:
        """It keeps the numbers and words that `instead_of` says of itself, which others may ask for."""
        super().__init__()
        said = {name: value for name, value in vars(instead_of).items() if isinstance(value, _NUMBERS)}
        vars(self).update({name: value for name, value in said.items() if not name.startswith("_")})
        self.answer = answer

    def forward(self, *args: Any, **named: Any) -> Any:
        """The answer, made of the arguments."""
        return _made(self.answer, args, named)


def _made(answer: Answer, args: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
    if answer is None:
        return None
    word, what = answer
    if word == "tuple":
        return tuple(_made(one, args, named) for one in what)
    given = args[what] if isinstance(what, int) else named[what]
    return given if word == "pass" else given.new_zeros(())


def answers_of(found: Any) -> dict[str, Answer]:
    """Answers by the names of modules, as files hold them. Raises ValueError for what is no answer."""

    def parsed(answer: Any) -> Answer:
        match answer:
            case None:
                return None
            case ["tuple", list(parts)]:
                return "tuple", tuple(map(parsed, parts))
            case ["pass" | "zero" as word, int() | str() as what] if not isinstance(what, bool):
                return word, what
        raise ValueError(f"{answer!r} says nothing of what answers in the place of a module")

    if not isinstance(found, dict):
        raise ValueError(f"{found!r} does not say what answers in the place of which module")
    return {name: parsed(answer) for name, answer in found.items()}


def leave_out(model: nn.Module, answers: Mapping[str, Answer]) -> None:
    """Put a `Skipped` in the place of each module of `model` that has an answer, by name.

    Raises ModelError for a module that is not there.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    if lost := [name for name in answers if name not in modules]:
        raise ModelError(f"it leaves out the module {lost[0]!r}, which the network has not")
    made = {id(modules[name]): Skipped(answer, modules[name]) for name, answer in answers.items()}
    for parent in modules.values():
        for word, child in parent._modules.items():
            if id(child) in made:
                parent._modules[word] = made[id(child)]


def renumber(model: nn.Module) -> None:
    """Number the layers of `model` anew that have a place in a cache, as `layer_idx` of transformers, without gaps."""
    own = [vars(module) for module in model.modules() if not isinstance(module, Skipped)]
    numbered = [said for said in own if isinstance(said.get("layer_idx"), int)]
    order = {old: new for new, old in enumerate(sorted({said["layer_idx"] for said in numbered}))}
    for said in numbered:
        said["layer_idx"] = order[said["layer_idx"]]


def skipped(model: nn.Module) -> Iterator[tuple[str, Answer]]:
    """The modules of `model` that were left out, by name, with their answers."""
    return ((name, module.answer) for name, module in model.named_modules() if isinstance(module, Skipped))


def inside(name: str, modules: Collection[str]) -> bool:
    """Whether `name`, of a module or tensor, is one of `modules` or lies in one."""
    steps = name.split(".")
    return any(".".join(steps[:end]) in modules for end in range(1, len(steps) + 1))
