"""From a name in a file to an object in memory.

A plugin is named in one of three ways:

* by a short name of ours, in the table below (a line here is all the registration there is),
* by a short name of another package's, from its entry points in the group `autoprune.<kind>`,
* by an address: `module:attribute`, or `path/to/file.py:attribute` for a file of your own.

Nothing is imported until it is asked for. A plugin is a class or a function whose parameters are its settings; criteria
and rewards may be plain functions, which then are the plugin itself and have no settings.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import json
import math
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any, NoReturn

import pydantic

from autoprune import addresses
from autoprune.addresses import is_address
from autoprune.errors import AutopruneError, ConfigError, UnknownPlugin, begun_small, first_fault, one_line

OURS: Mapping[str, Mapping[str, str]] = {
    "controller": {
        "uniform": "autoprune.controllers.uniform:Uniform",
        "deep": "autoprune.controllers.deep:Deep",
        "shallow": "autoprune.controllers.shallow:Shallow",
        "erk": "autoprune.controllers.erk:Erk",
        "smart-ratio": "autoprune.controllers.smart_ratio:SmartRatio",
        "random": "autoprune.controllers.random:Random",
        "evolution": "autoprune.controllers.evolution:Evolution",
        "genetic": "autoprune.controllers.genetic:Genetic",
        "switch": "autoprune.controllers.switch:Switch",
        "knapsack": "autoprune.controllers.knapsack:Knapsack",
        "netadapt": "autoprune.controllers.netadapt:NetAdapt",
        "legr": "autoprune.controllers.legr:LeGR",
        "bayes": "autoprune.controllers.bayes:Bayes",
        "bayes-gp": "autoprune.controllers.bayes_gp:BayesGP",
        "cmaes": "autoprune.controllers.cmaes:CmaEs",
        "nsga2": "autoprune.controllers.nsga2:Nsga2",
        "qmc": "autoprune.controllers.qmc:Qmc",
        "ddpg": "autoprune.controllers.ddpg:DDPG",
        "td3": "autoprune.controllers.td3:TD3",
        "sac": "autoprune.controllers.sac:SAC",
    },
    "evaluator": {
        "recalibrate": "autoprune.evaluators.recalibrate:Recalibrate",
        "reconstruct": "autoprune.evaluators.reconstruct:Reconstruct",
        "reconstruct-sequential": "autoprune.evaluators.sequential:ReconstructSequential",
        "finetune": "autoprune.evaluators.finetune:Finetune",
        "pruningnet": "autoprune.evaluators.pruningnet:PruningNet",
        "supernet": "autoprune.evaluators.supernet:Supernet",
    },
    "criterion": {
        name: f"autoprune.criteria:{name}"
        for name in ("random", "l1", "l2", "group_norm", "bn_scale", "fpgm", "taylor")
    },
    "reward": {
        "metric": "autoprune.rewards:metric",
        "r_err": "autoprune.rewards:r_err",
        "r_flops": "autoprune.rewards:r_flops",
        "r_param": "autoprune.rewards:r_param",
        "r_latency": "autoprune.rewards:r_latency",
        "mnasnet": "autoprune.rewards:MnasNet",
        "guaranteed": "autoprune.rewards:Guaranteed",
    },
    "cost": {
        "macs": "autoprune.costs.arithmetic:Macs",
        "flops": "autoprune.costs.arithmetic:Flops",
        "params": "autoprune.costs.arithmetic:Params",
        "memory": "autoprune.costs.memory:Memory",
        "size": "autoprune.costs.memory:Size",
        "latency": "autoprune.costs.latency.model:Latency",
    },
    "target": {
        "torch": "autoprune.targets.pytorch:Torch",
        "torch-compile": "autoprune.targets.pytorch:TorchCompile",
        "torch-cuda": "autoprune.targets.pytorch:TorchCuda",
        "onnxruntime": "autoprune.targets.runtimes:OnnxRuntime",
        "openvino": "autoprune.targets.runtimes:OpenVino",
        "command": "autoprune.targets.runtimes:Command",
    },
    "operator": {
        "pointwise": "autoprune.structure.declared:Pointwise",
        "keeps-channels": "autoprune.structure.declared:KeepsChannels",
        "mixes": "autoprune.structure.declared:Mixes",
    },
    "task": {
        "fashion_mnist": "autoprune.tasks.fashion_mnist:fashion_mnist",
        "cifar10": "autoprune.tasks.cifar10:cifar10",
        "spoken_digits": "autoprune.tasks.spoken_digits:spoken_digits",
        "sentences": "autoprune.tasks.sentences:sentences",
        "bccd": "autoprune.tasks.bccd:bccd",
        "wikitext2": "autoprune.tasks.wikitext2:wikitext2",
    },
}

WIRED: Mapping[str, tuple[str, ...]] = {  # what the program gives; everything else is a setting
    "controller": ("space", "budget", "seed"),
    "evaluator": ("bench",),
    "cost": ("space", "trace", "task", "target", "known"),
}
MOVED: Mapping[str, str] = {  # addresses of ours that files may hold, and where they are now
    **{
        f"autoprune.controllers.{old}:{name}": f"autoprune.controllers.{new}:{name}"
        for old, new, name in (
            ("uniform", "deep", "Deep"),
            ("uniform", "shallow", "Shallow"),
            ("bayes", "bayes_gp", "BayesGP"),
            ("bayes", "cmaes", "CmaEs"),
            ("bayes", "nsga2", "Nsga2"),
            ("bayes", "qmc", "Qmc"),
            ("ddpg", "td3", "TD3"),
            ("ddpg", "sac", "SAC"),
        )
    },
    "autoprune.costs.latency:Latency": "autoprune.costs.latency.model:Latency",
}
_VERBS: Mapping[str, tuple[str, ...]] = {  # what a plugin that was made must have
    "controller": ("ask", "tell"),
    "evaluator": ("realise", "recover", "score"),
    "cost": ("predict", "measure"),
    "target": ("ready",),
    "operator": ("follow",),
    "criterion": ("__call__",),
    "reward": ("__call__",),
}
_BEFORE = ("task", "trace", "space", "criterion", "precision")  # what evaluators were given one by one
_OFTEN_FUNCTIONS = ("criterion", "reward")


def names(kind: str) -> dict[str, str]:
    """Every short name of that kind and the address behind it. Ours come last: they cannot be usurped."""
    if kind not in OURS:
        hint = meant(kind, OURS) or f"; there are {', '.join(OURS)}"
        raise UnknownPlugin(f"no kind of plugin is called {kind!r}{hint}")
    theirs = {point.name: point.value for point in entry_points(group=f"autoprune.{kind}")}
    return {**theirs, **OURS[kind]}


def load(kind: str, name: str) -> Callable[..., Any]:
    """The class or function behind `name`. Raises UnknownPlugin, or ConfigError where an address leads nowhere."""
    known = names(kind)
    address = MOVED.get(name, name) if is_address(name) else known.get(name)
    if address is None:
        hint = meant(name, known) or f"; there are {', '.join(sorted(known))}"
        raise UnknownPlugin(f"no {kind} is called {name!r}{hint}")
    return at(address, kind, name)


def at(address: str, kind: str, name: str) -> Callable[..., Any]:
    """The class or function at an address, which is of that kind and is called so in errors. Raises ConfigError."""
    place, _, attribute = address.rpartition(":")
    if addresses.is_pythons_own(address):
        raise ConfigError(f"{kind} {name!r}: {place} is Python's own and holds no {kind}; name yours")
    module = addresses.module(place, f"{kind} {name!r}")
    found = getattr(module, attribute, None)
    if not callable(found):
        what = "has no" if found is None else "holds something that is not callable under"
        hint = meant(attribute, (word for word in vars(module) if not word.startswith("_")))
        raise ConfigError(f"{kind} {name!r}: {place} {what} {attribute!r}{hint}")
    try:
        inspect.signature(found)
    except ValueError:  # of some that are written in C
        raise ConfigError(
            f"{kind} {name!r}: {attribute} does not say what it takes; write a class of your own"
        ) from None
    return typing.cast("Callable[..., Any]", found)


def build(kind: str, settings: Mapping[str, Any], **wiring: Any) -> Any:
    """The plugin that `settings["use"]` names, made with the other settings and with the program's own `wiring`."""
    name = str(settings["use"])
    make = load(kind, name)
    checked = check(kind, settings, without=tuple(wiring))
    if _is_itself(kind, make):
        return make
    _require_kind(kind, name, make)
    taken = inspect.signature(make).parameters
    with _told(f"{kind} {name!r}", theirs=is_address(name) or name not in OURS[kind]):
        made = make(**{word: value for word, value in wiring.items() if word in taken}, **checked)
    if absent := [verb for verb in _VERBS.get(kind, ()) if not callable(getattr(made, verb, None))]:
        _refuse_verb(kind, name, absent[0], old=hasattr(made, "metric"))
    return made


def _require_kind(kind: str, name: str, found: Any) -> None:
    """Raise ConfigError where a class, or the class that a function says it returns, can be no plugin of that kind."""
    made = found if inspect.isclass(found) else hints_of(found).get("return")
    if not inspect.isclass(made):
        return
    held = {*dir(made), *hints_of(made)}
    if absent := [verb for verb in _VERBS.get(kind, ()) if verb not in held]:
        _refuse_verb(kind, name, absent[0], old="metric" in held)


def _refuse_verb(kind: str, name: str, verb: str, *, old: bool) -> NoReturn:
    renamed = kind == "evaluator" and old
    hint = "; what was `metric` is `recover` and `score` now, see autoprune/protocols.py" if renamed else ""
    raise ConfigError(f"{kind} {name!r} has no method {verb!r}{hint}")


@contextlib.contextmanager
def _told(what: str, *, theirs: bool) -> Iterator[None]:
    """Inside, what a constructor raises becomes a ConfigError; of code that is not ours, whatever it raises."""
    try:
        yield
    except AutopruneError:
        raise
    except (Exception, SystemExit) as wrong:
        if isinstance(wrong, AttributeError) and type(wrong.obj).__module__.startswith("autoprune."):
            raise ConfigError(f"{what}: {one_line(wrong)}; CHANGELOG.md says what was renamed") from wrong
        if isinstance(wrong, ValueError):
            raise ConfigError(f"{what}: {one_line(wrong)}{addresses.raised_at(wrong) if theirs else ''}") from wrong
        if not theirs:
            raise
        raise ConfigError(f"{what}: {addresses.told(wrong)}") from wrong


def check(kind: str, settings: Mapping[str, Any], without: Iterable[str] = ()) -> dict[str, Any]:
    """The settings of a plugin but for "use", each as the type that its signature says.

    `without` are the parameters that the program gives. Raises ConfigError for a setting that does not exist, is
    missing or has another type.
    """
    name = str(settings["use"])
    make = load(kind, name)
    given = {word: value for word, value in settings.items() if word != "use"}
    parameters = settings_of(kind, make, {*without, *WIRED.get(kind, ())})
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = {word: p for word, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    for word in given:
        if word not in named and not anything:
            there = f"; there are {', '.join(named)}" if named else "; it has none"
            raise ConfigError(f"{kind} {name!r} has no setting {word!r}{meant(word, named) or there}")
    for word, parameter in named.items():
        if parameter.default is parameter.empty and word not in given:
            if kind == "evaluator" and word in _BEFORE:
                raise ConfigError(f"{kind} {name!r} takes {word!r}; evaluators are handed one argument, `bench`: "
                                  f"write bench.{word}")  # fmt: skip
            raise ConfigError(f"{kind} {name!r} needs the setting {word!r}")
    hints = hints_of(make, ranges=True)
    return {
        word: _typed(f"{kind} {name!r}, setting {word!r}", hints.get(word, Any), value) for word, value in given.items()
    }


def takes(kind: str, name: str, parameter: str) -> bool:
    """Whether the plugin has a parameter of that name."""
    return parameter in inspect.signature(load(kind, name)).parameters


def meant(word: str, among: Iterable[str]) -> str:
    """ "; did you mean 'x'?" for the nearest of `among`, or nothing."""
    close = difflib.get_close_matches(word, list(among), 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _is_itself(kind: str, make: Callable[..., Any]) -> bool:
    return kind in _OFTEN_FUNCTIONS and not inspect.isclass(make)


def settings_of(kind: str, make: Callable[..., Any], wired: Iterable[str]) -> dict[str, inspect.Parameter]:
    """The parameters of a plugin but for those that the program gives."""
    if _is_itself(kind, make):
        return {}
    parameters = inspect.signature(make).parameters
    return {word: p for word, p in parameters.items() if word not in set(wired)}


def hints_of(make: Callable[..., Any], *, ranges: bool = False) -> dict[str, Any]:
    """The types of the parameters of `make`, with the ranges of numbers if asked for.

    Annotations that cannot be evaluated are left out. What a class inherits was annotated with the names of the
    module that it is inherited from.
    """
    found: dict[str, Any] = {}
    for part in (*reversed(make.__mro__), make.__init__) if inspect.isclass(make) else (make,):
        with contextlib.suppress(NameError, TypeError):
            found |= typing.get_type_hints(part, include_extras=ranges)
    return found


def _typed(where: str, hint: Any, value: Any) -> Any:
    """`value` as `hint` wants it: strictly, but a list is accepted for a tuple and an int for a float."""
    try:
        found = pydantic.TypeAdapter(hint).validate_json(json.dumps(value, default=str), strict=True)
    except pydantic.ValidationError as wrong:
        _, said = first_fault(wrong.errors())
        raise ConfigError(f"{where} is {value!r}: {begun_small(said)}") from None
    except pydantic.PydanticSchemaGenerationError:
        raise ConfigError(f"{where} cannot be written in a file: it is a {written(hint)}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where} is {value}: a finite number is right")
    return value if hint is Any else found


def written(hint: Any) -> str:
    """A type as Python writes it."""
    return "any" if hint is Any else inspect.formatannotation(hint).replace("typing.", "")
