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
import hashlib
import importlib
import importlib.util
import inspect
import json
import math
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pydantic

from autoprune.errors import AutopruneError, ConfigError, UnknownPlugin

OURS: Mapping[str, Mapping[str, str]] = {
    "controller": {
        "uniform": "autoprune.controllers.uniform:Uniform",
        "deep": "autoprune.controllers.deep:Deep",
        "shallow": "autoprune.controllers.shallow:Shallow",
        "random": "autoprune.controllers.random:Random",
        "evolution": "autoprune.controllers.evolution:Evolution",
        "genetic": "autoprune.controllers.genetic:Genetic",
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
    "task": {
        "fashion_mnist": "autoprune.tasks.fashion_mnist:fashion_mnist",
        "cifar10": "autoprune.tasks.cifar10:cifar10",
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
    address = MOVED.get(name, name) if ":" in name else known.get(name)
    if address is None:
        hint = meant(name, known) or f"; there are {', '.join(sorted(known))}"
        raise UnknownPlugin(f"no {kind} is called {name!r}{hint}")
    place, _, attribute = address.rpartition(":")
    module = _module(place, f"{kind} {name!r}")
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
    taken = inspect.signature(make).parameters
    try:
        made = make(**{word: value for word, value in wiring.items() if word in taken}, **checked)
    except AutopruneError:
        raise
    except ValueError as wrong:
        raise ConfigError(f"{kind} {name!r}: {one_line(wrong)}") from wrong
    except AttributeError as wrong:
        if not type(wrong.obj).__module__.startswith("autoprune."):
            raise
        raise ConfigError(f"{kind} {name!r}: {one_line(wrong)}; CHANGELOG.md says what was renamed") from wrong
    if absent := [verb for verb in _VERBS.get(kind, ()) if not callable(getattr(made, verb, None))]:
        old = hasattr(made, "metric") and kind == "evaluator"
        hint = "; what was `metric` is `recover` and `score` now, see autoprune/protocols.py" if old else ""
        raise ConfigError(f"{kind} {name!r} has no method {absent[0]!r}{hint}")
    return made


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
    hints = hints_of(make)
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


def one_line(wrong: BaseException) -> str:
    """An exception's message without its line breaks; its type where it has no message."""
    return " ".join(str(wrong).split()) or type(wrong).__name__


def _is_itself(kind: str, make: Callable[..., Any]) -> bool:
    return kind in _OFTEN_FUNCTIONS and not inspect.isclass(make)


def settings_of(kind: str, make: Callable[..., Any], wired: Iterable[str]) -> dict[str, inspect.Parameter]:
    """The parameters of a plugin but for those that the program gives."""
    if _is_itself(kind, make):
        return {}
    parameters = inspect.signature(make).parameters
    return {word: p for word, p in parameters.items() if word not in set(wired)}


def hints_of(make: Callable[..., Any]) -> dict[str, Any]:
    """The types of the parameters of `make`; without those of an annotation that cannot be evaluated.

    What a class inherits was annotated with the names of the module that it is inherited from.
    """
    found: dict[str, Any] = {}
    for part in (*reversed(make.__mro__), make.__init__) if inspect.isclass(make) else (make,):
        with contextlib.suppress(NameError, TypeError):
            found |= typing.get_type_hints(part)
    return found


def _typed(where: str, hint: Any, value: Any) -> Any:
    """`value` as `hint` wants it: strictly, but a list is accepted for a tuple and an int for a float."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where} is {value}: a finite number is right")
    if hint is Any:
        return value
    try:
        return pydantic.TypeAdapter(hint).validate_json(json.dumps(value, default=str), strict=True)
    except pydantic.ValidationError as wrong:
        raise ConfigError(f"{where} is {value!r}: {wrong.errors()[0]['msg'].lower()}") from None
    except pydantic.PydanticSchemaGenerationError:
        raise ConfigError(f"{where} cannot be written in a file: it is a {written(hint)}") from None


def written(hint: Any) -> str:
    """A type as Python writes it."""
    return "any" if hint is Any else inspect.formatannotation(hint).replace("typing.", "")


def _module(place: str, what: str) -> ModuleType:
    """The module at `place`, a dotted name or the path of a Python file."""
    is_file = place.endswith(".py")
    if is_file and not Path(place).is_file():
        raise ConfigError(f"{what}: {place} does not exist; it should be a Python file")
    try:
        return _from_file(Path(place)) if is_file else importlib.import_module(place)
    except (Exception, SystemExit) as wrong:  # whatever a user's file raises
        reason = f"{type(wrong).__name__}: {one_line(wrong)}"
        hint = "; CHANGELOG.md says what was renamed" if "autoprune." in reason else ""
        raise ConfigError(f"{what}: {place} cannot be imported ({reason}){hint}") from wrong


def _from_file(path: Path) -> ModuleType:
    """A Python file as a module, which may import its neighbours. The same file, unchanged, is one module."""
    path = path.resolve()
    digest = hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:12]
    name = f"autoprune_file_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # a path that ends in .py has a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with _neighbours(path.parent):
        sys.modules[name] = module  # dataclasses look themselves up there
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return module


@contextlib.contextmanager
def _neighbours(folder: Path) -> Iterator[None]:
    """Inside, Python finds the modules in `folder` and leaves no compiled files there."""
    before = sys.dont_write_bytecode
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))
