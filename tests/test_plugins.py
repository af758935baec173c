"""Names, addresses and settings of plugins, and what a person is told who gets one wrong."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Literal

import pytest

from autoprune import plugins
from autoprune.command.describe import describe
from autoprune.errors import AutopruneError, ConfigError, UnknownPlugin
from autoprune.protocols import Learns, SaysHowWell
from autoprune.testing.surrogate import half, toy_space


@dataclass
class Toy:
    """A controller for tests.

    More words that are no summary.

    Attributes:
        space: wired, so never shown.
        rate: how fast, in (0, 1];
            over two lines.
        first, second: sizes.
        mode: how.
    """

    space: str
    rate: float = 0.5
    first: int = 1
    second: tuple[int, ...] = (1, 2)
    mode: Literal["a", "b"] = "a"

    def __post_init__(self) -> None:
        if self.rate > 1:
            raise ValueError(f"rate is {self.rate}; it should be in (0, 1]")

    def ask(self) -> None: ...

    def tell(self, trial: object) -> None: ...


def score(units: object) -> str:
    """Scores units."""
    return "scored"


class Bare:
    """No plugin of any kind."""


HERE = f"{__name__}:"
NOT_CALLABLE = 3


def toy(**settings: object) -> Toy:
    made = plugins.build("controller", {"use": f"{HERE}Toy", **settings}, space="wired", budget=None)
    assert isinstance(made, Toy)
    return made


class TestSettings:
    def test_reach_the_plugin_with_their_types(self) -> None:
        assert toy(rate=1, second=[3, 4], mode="b") == Toy("wired", 1.0, 1, (3, 4), "b")
        assert isinstance(toy(rate=1).rate, float)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"frist": 2}, "has no setting 'frist'; did you mean 'first'?"),
            ({"zzz": 2}, "has no setting 'zzz'; there are rate, first, second, mode"),
            ({"space": "mine"}, "has no setting 'space'"),
            ({"first": "2"}, r"setting 'first' is '2': .* integer"),
            ({"first": 2.5}, r"setting 'first' is 2.5: .* integer"),
            ({"first": True}, r"setting 'first' is True: .* integer"),
            ({"rate": "fast"}, r"setting 'rate' is 'fast': .* number"),
            ({"mode": "c"}, r"setting 'mode' is 'c': .*'a' or 'b'"),
            ({"rate": 2.0}, r"rate is 2.0; it should be in \(0, 1\]"),
        ],
    )
    def test_that_are_wrong_are_named(self, settings: dict[str, object], message: str) -> None:
        with pytest.raises(ConfigError, match=message) as caught:
            toy(**settings)
        assert "\n" not in str(caught.value)
        assert "Toy" in str(caught.value)

    def test_that_are_required_are_asked_for(self) -> None:
        with pytest.raises(ConfigError, match="needs the setting 'space'"):
            plugins.build("task", {"use": f"{HERE}Toy"})

    def test_of_a_plain_function_are_none(self) -> None:
        assert plugins.build("criterion", {"use": f"{HERE}score"}) is score
        with pytest.raises(ConfigError, match="no setting 'units'; it has none"):
            plugins.build("criterion", {"use": f"{HERE}score", "units": 1})


class TestNames:
    @pytest.mark.parametrize(("kind", "name"), [(k, n) for k in plugins.OURS for n in plugins.OURS[k]])
    def test_in_the_table_lead_somewhere_and_are_described(self, kind: str, name: str) -> None:
        assert callable(plugins.load(kind, name))
        described = describe(kind, name)
        assert described.summary
        undocumented = [setting.name for setting in described.settings if not setting.meaning]
        assert not undocumented, f"{kind} {name} should say what these mean in its docstring"

    def test_misspelt_are_guessed(self) -> None:
        with pytest.raises(UnknownPlugin, match="no controller is called 'evolutoin'; did you mean 'evolution'"):
            plugins.load("controller", "evolutoin")
        with pytest.raises(UnknownPlugin, match="no kind of plugin is called 'contoller'; did you mean 'controller'"):
            plugins.names("contoller")

    def test_of_others_come_from_entry_points_but_do_not_usurp_ours(self, monkeypatch: pytest.MonkeyPatch) -> None:
        points = [EntryPoint(name, f"{HERE}Toy", "autoprune.controller") for name in ("theirs", "random")]
        monkeypatch.setattr(plugins, "entry_points", lambda group: points if group == "autoprune.controller" else [])
        assert plugins.load("controller", "theirs") is Toy
        assert plugins.names("controller")["random"] == plugins.OURS["controller"]["random"]
        assert "theirs" not in plugins.names("task")


class TestOldPlugins:
    """Of the protocols before policies held whole numbers and evaluators stood on a bench."""

    @pytest.mark.parametrize("address", plugins.MOVED)
    def test_addresses_that_files_may_hold_lead_to_where_they_went(self, address: str) -> None:
        kind = "cost" if ".costs." in address else "controller"
        assert plugins.load(kind, address).__name__ == address.rpartition(":")[2]

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("OldEvaluator", "has no method 'recover'; what was `metric` is `recover` and `score` now"),
            ("OlderEvaluator", "takes 'task'; evaluators are handed one argument, `bench`: write bench.task"),
        ],
    )
    def test_evaluators_are_told_what_changed(self, name: str, message: str) -> None:
        with pytest.raises(ConfigError, match=re.escape(message)) as caught:
            plugins.build("evaluator", {"use": f"tests.assets.mine:{name}"}, bench=None)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("kind", "address", "message"),
        [
            ("controller", "torch:add", "does not say what it takes"),
            ("controller", f"{HERE}Bare", "has no method 'ask'"),
            ("target", f"{HERE}Bare", "has no method 'ready'"),
            ("criterion", f"{HERE}Bare", "has no method '__call__'"),
            ("reward", f"{HERE}Bare", "has no method '__call__'"),
        ],
    )
    def test_what_is_of_another_kind_is_refused(self, kind: str, address: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            plugins.build(kind, {"use": address})

    def test_a_name_that_is_gone_is_one_line(self, tmp_path: Path) -> None:
        file = tmp_path / "old.py"
        verbs = "    def ask(self): ...\n    def tell(self, trial): ...\n"
        start = "    def __init__(self, space, budget, seed=0):\n        self.of = space.groups\n"
        file.write_text(f"class Old:\n{verbs}{start}")
        space = toy_space()
        with pytest.raises(ConfigError, match=r"no attribute 'groups'; CHANGELOG.md says what was renamed"):
            plugins.build("controller", {"use": f"{file}:Old"}, space=space, budget=half(space), seed=0)
        file.write_text("from autoprune.space import Policy\n")
        with pytest.raises(
            ConfigError, match=r"No module named 'autoprune.space' at old.py, line 1\); CHANGELOG.md says what was"
        ):
            plugins.load("controller", f"{file}:Old")

    def test_costs_that_learn_need_not_say_how_well(self) -> None:
        class Cost:
            def state(self) -> dict[str, float]:
                return {}

            def learn(self, watch: object) -> None: ...

        assert isinstance(Cost(), Learns)
        assert not isinstance(Cost(), SaysHowWell)


class TestAddresses:
    @pytest.fixture(autouse=True)
    def _leave_no_trace(self) -> Iterator[None]:
        modules, path = set(sys.modules), list(sys.path)
        yield
        assert sys.path == path
        for name in set(sys.modules) - modules:
            del sys.modules[name]

    def test_of_files_load_once_beside_their_neighbours(self, tmp_path: Path) -> None:
        (tmp_path / "neighbour_of_mine.py").write_text("VALUE = 7\n")
        file = tmp_path / "mine.py"
        file.write_text("from neighbour_of_mine import VALUE\ndef make(extra: int = 0):\n    return VALUE + extra\n")
        before = set(tmp_path.iterdir())
        assert plugins.build("task", {"use": f"{file}:make", "extra": 1}) == 8
        assert plugins.load("task", f"{file}:make") is plugins.load("task", f"{file}:make")
        assert set(tmp_path.iterdir()) == before, "compiled files were left behind"

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("import no_such_module_anywhere", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
            ("def make(:", "SyntaxError"),
            ("raise SystemExit(3)", "SystemExit: 3"),
            ("def maek(): ...", "has no 'make'; did you mean 'maek'?"),
            ("make = 3", "not callable"),
        ],
    )
    def test_of_broken_files_say_why_in_one_line(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "mine.py").write_text(text)
        with pytest.raises(ConfigError) as caught:
            plugins.load("task", f"{tmp_path}/mine.py:make")
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("address", "message"),
        [
            ("no/such/file.py:make", "no/such/file.py does not exist"),
            ("no_such_module_anywhere:make", "cannot be imported"),
            (f"{HERE}Tony", "did you mean 'Toy'"),
            (f"{HERE}NOT_CALLABLE", "not callable"),
        ],
    )
    def test_that_lead_nowhere_are_refused(self, address: str, message: str) -> None:
        with pytest.raises(AutopruneError, match=message):
            plugins.load("task", address)


def test_a_description_tells_types_defaults_and_meanings() -> None:
    described = describe("controller", f"{HERE}Toy")
    assert described.summary == "A controller for tests."
    assert [(s.name, s.type, s.default, s.meaning) for s in described.settings] == [
        ("rate", "float", "0.5", "how fast, in (0, 1]; over two lines."),
        ("first", "int", "1", "sizes."),
        ("second", "tuple[int, ...]", "(1, 2)", "sizes."),
        ("mode", "Literal['a', 'b']", "'a'", "how."),
    ]
