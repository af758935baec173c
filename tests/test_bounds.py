"""Numbers that people write: each setting has a range, and what lies outside it is one line, not a run for ever."""

from __future__ import annotations

import math
import typing
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, strategies as st

from autoprune import config, plugins
from autoprune.command.describe import describe
from autoprune.config import Config, Table
from autoprune.controllers.bayes import Bayes
from autoprune.errors import ConfigError
from autoprune.testing.surrogate import half, toy_space
from autoprune.values.budget import ceiling
from autoprune.values.ranges import Range, ranges

TASK = {"task": {"use": "fashion_mnist"}}
CEILINGS = ("budget",)  # shares or amounts, which `values.budget.ceiling` reads and bounds


def tables(table: type[Table] = Config) -> Iterator[type[Table]]:
    """Every table of a search space's file."""
    yield table
    for hint in typing.get_type_hints(table).values():
        for part in (hint, *typing.get_args(hint)):
            if isinstance(part, type) and typing.get_origin(part) is None and issubclass(part, Table):
                yield from tables(part)


TABLES = {f"{table.__name__}.{name}": hint
          for table in tables() for name, hint in typing.get_type_hints(table, include_extras=True).items()
          if name in table.model_fields and name not in CEILINGS}  # fmt: skip
SETTINGS = {
    f"{kind} {name}: {setting}": plugins.hints_of(plugins.load(kind, name), ranges=True).get(setting)
    for kind in plugins.OURS
    for name in plugins.OURS[kind]
    for setting in plugins.settings_of(kind, plugins.load(kind, name), plugins.WIRED.get(kind, ()))
}
NUMBERS = {where: found for where, hint in {**TABLES, **SETTINGS}.items() if (found := list(ranges(hint)))}


@pytest.mark.parametrize("where", NUMBERS)
def test_every_number_of_every_setting_has_a_range(where: str) -> None:
    for _, one in NUMBERS[where]:
        assert one is not None, f"say which numbers {where} may be, as values.ranges does"
        assert math.isfinite(one.least)
        assert math.isfinite(one.most)
        assert one.least < one.most


def test_the_walk_sees_all_settings() -> None:
    assert len(NUMBERS) > 100
    assert {"Search.seed", "GroupRule.cap", "controller bayes: candidates", "task cifar10: holdout"} <= NUMBERS.keys()


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        (
            "search.seed",
            10**30,
            "search.seed = 1000000000000000000000000000000: a whole number from 0 to 4,294,967,295",
        ),
        ("search.seed", -1, "search.seed = -1: a whole number from 0 to"),
        ("search.trials", 10**12, "search.trials = 1000000000000: a whole number from 1 to 1,000,000 is right"),
        ("search.trials", "60", "search.trials = '60': a whole number from 1 to"),
        ("finetune.epochs", 1e300, "finetune.epochs = 1e+300: a number from 0 to 10,000 is right"),
        ("finetune.weight_decay", 1e300, "finetune.weight_decay = 1e+300: a number from 0 to 1 is right"),
        ("finetune.lr", math.inf, "finetune.lr = inf: a number above 0 and up to 100 is right"),
        ("finetune.warmup", math.nan, "finetune.warmup = nan: a number from 0 and below 1 is right"),
        ("space.step", 10**9, "space.step = 1000000000: a whole number from 1 to 65,536, or 'auto' is right"),
        ("report.fidelity", 10**9, "report.fidelity = 1000000000: a whole number from 0 to 10,000 is right"),
    ],
)
def test_a_number_beyond_all_use_is_refused_in_a_table(key: str, value: object, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse(TASK, "mine.toml", {key: value})
    assert str(caught.value).startswith(f"mine.toml: {told}")


@pytest.mark.parametrize(
    ("kind", "name", "setting", "value"),
    [
        ("controller", "bayes", "candidates", 0),
        ("controller", "bayes", "startup", -1),
        ("controller", "bayes-gp", "startup", -1),
        ("controller", "evolution", "brood", 10**12),
        ("controller", "ddpg", "hidden", [300, 0]),
        ("controller", "ddpg", "replay", 10**12),
        ("evaluator", "recalibrate", "images", 10**21),
        ("evaluator", "finetune", "weight_decay", 1e300),
        ("evaluator", "finetune", "images", 10**21),
        ("evaluator", "supernet", "epochs", 1e300),
        ("evaluator", "reconstruct", "ridge", math.nan),
        ("target", "onnxruntime", "threads", 10**9),
        ("target", "torch", "batch", 10**21),
        ("operator", "keeps-channels", "dim", 10**9),
        ("task", "sentences", "length", 10**12),
    ],
)
def test_a_number_beyond_all_use_is_refused_in_a_plugin(kind: str, name: str, setting: str, value: Any) -> None:
    needed = {"of": "a::b"} if kind == "operator" else {}
    with pytest.raises(ConfigError) as caught:
        plugins.check(kind, {"use": name, **needed, setting: value})
    message = str(caught.value)
    assert message.startswith(f"{kind} {name!r}, setting {setting!r} is {value!r}: a")
    assert message.endswith("is right")
    assert "\n" not in message


def test_a_plugin_that_is_made_in_python_refuses_the_same() -> None:
    space = toy_space()
    with pytest.raises(ConfigError, match=r"^Bayes: candidates = 0; a whole number from 1 to 10,000 is right$"):
        Bayes(space, half(space), candidates=0)


@pytest.mark.parametrize("written", [1, "1", " 1 ", "01"])
def test_a_budget_of_a_whole_1_is_asked_about(written: str | int) -> None:
    with pytest.raises(ConfigError, match=r"could be all of dense or one unit; write '100%' or, say, '1MAC'"):
        ceiling(written, 30e6, "MAC")
    with pytest.raises(ConfigError, match=r"^mine.toml: budget.macs = .*write '100%'"):
        config.parse({**TASK, "budget": {"macs": written}}, "mine.toml")


def test_a_budget_of_all_and_of_one_unit_can_be_written() -> None:
    assert [ceiling(written, 30e6, "MAC") for written in ("100%", 1.0, "1.0", "1MAC", "1 MAC")] == [30e6] * 3 + [1, 1]
    assert config.parse({**TASK, "budget": {"macs": 1.0}}, "config.json").budget == {"macs": 1.0}


def test_plugins_shows_the_ranges() -> None:
    shown = {setting.name: (setting.type, setting.range) for setting in describe("controller", "bayes").settings}
    assert shown == {"startup": ("int", "1 to 1,000,000"), "candidates": ("int", "1 to 10,000")}


@given(st.integers() | st.floats() | st.booleans() | st.text(max_size=5))
def test_what_a_range_holds_is_between_its_ends(value: Any) -> None:
    one = Range(0, 1, above=True, word="auto")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    assert (value in one) == (value == "auto" or (number and 0 < value <= 1))
    assert one.said(whole=False) == "a number above 0 and up to 1, or 'auto'"
