"""Files that came from elsewhere run nothing that was not allowed; the user's own go on without a question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autoprune import config, plugins, trust
from autoprune.command import cli
from autoprune.errors import ConfigError, Untrusted
from autoprune.files.policy_file import SCHEMA
from autoprune.runs.apply import apply_point, apply_policy
from autoprune.runs.lifecycle import reopen

HOSTILE = "import pathlib\npathlib.Path(r'{mark}').touch()\ndef make(**settings): ...\n"


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file that is there once hostile code has run."""
    return tmp_path / "it_ran"


@pytest.fixture
def code(tmp_path: Path, mark: Path) -> str:
    """The address of hostile code."""
    file = tmp_path / "evil.py"
    file.write_text(HOSTILE.format(mark=mark))
    return f"{file}:make"


def tables(kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """A config in which one table is hostile; "cost" stands for the name of a budget."""
    plain: dict[str, Any] = {"name": "theirs", "task": {"use": "fashion_mnist"}, "search": {"seed": 0}}
    if kind == "cost":
        return {**plain, "budget": {settings["use"]: "50%"}}
    if kind == "operator":
        return {**plain, "operator": [{"of": "a::b", **settings}]}
    return {**plain, kind: settings}


def policy_of(given: dict[str, Any], folder: Path) -> Path:
    """A policy.json that names what `given` names."""
    path = folder / "policy.json"
    rest = {"criterion": {"use": "l2"}, "evaluator": {"use": "recalibrate"}}
    said = {key: given[key] for key in ("task", "criterion", "evaluator", "operator") if key in given}
    model = {"architecture": "0", "weights": "0"}
    file = {"schema_version": SCHEMA, "model": model, "space": "theirs", "choices": [], "budget": {}, "costs": {}}
    path.write_text(json.dumps({**file, "seed": 0, "versions": {}, **rest, **said}))
    return path


def run_of(given: dict[str, Any], folder: Path) -> Path:
    """A run's directory whose config is `given`."""
    for name, content in (("config.json", given), ("machine.json", {}), ("space.json", {})):
        (folder / name).write_text(json.dumps(content))
    return folder


KINDS = ["task", "criterion", "evaluator", "reward", "target", "controller", "cost", "operator"]


def test_every_kind_of_plugin_is_looked_at() -> None:
    assert set(KINDS) == set(plugins.OURS)


class TestFilesFromElsewhere:
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_run_directory_that_names_code_does_not_run_it(
        self, kind: str, code: str, mark: Path, tmp_path: Path
    ) -> None:
        run = run_of(tables(kind, {"use": code}), tmp_path)
        with pytest.raises(Untrusted, match="without your leave; read it, and if you want that") as caught:
            reopen(run)
        assert code in str(caught.value)
        with pytest.raises(Untrusted):
            apply_point(run, {"macs": "50%"})
        assert not mark.exists()

    def test_what_is_allowed_must_be_named_there(self, code: str, mark: Path, tmp_path: Path) -> None:
        """A slip of the pen in --trust was taken without a word, and the file refused all the same, or not at all."""
        plain = {"name": "ours", "task": {"use": "fashion_mnist"}}
        for given, known in ((tables("reward", {"use": code}), code), (plain, "only what autoprune has")):
            with pytest.raises(ConfigError, match="--trust nonsense: ") as caught:
                reopen(run_of(given, tmp_path), trust=["nonsense"])
            assert str(caught.value).endswith(f"does not name that; it names {known}")
        assert not mark.exists()

    @pytest.mark.parametrize("kind", ["task", "criterion", "evaluator", "operator"])
    def test_a_policy_that_names_code_does_not_run_it(self, kind: str, code: str, mark: Path, tmp_path: Path) -> None:
        with pytest.raises(Untrusted):
            apply_policy(policy_of(tables(kind, {"use": code}), tmp_path))
        assert not mark.exists()

    def test_os_system_in_a_policy_is_one_line_and_status_2(
        self, mark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = policy_of({"task": {"use": "os:system", "command": f"touch {mark}"}}, tmp_path)
        given = ["apply", str(path), "--out", str(tmp_path / "x.safetensors")]
        assert cli.main(given) == 2
        assert "would run the task 'os:system' (not on your list), without your leave" in capsys.readouterr().err
        assert cli.main([*given, "--trust", "os:system"]) == 2
        assert "os is Python's own and holds no task" in capsys.readouterr().err
        assert not mark.exists()

    def test_a_program_to_time_networks_with_is_code(self, mark: Path, tmp_path: Path) -> None:
        target = {"use": "command", "command": f"touch {mark} {{model}}"}
        with pytest.raises(Untrusted, match="would run the target 'touch "):
            reopen(run_of(tables("target", target), tmp_path))
        ours = {**target, "use": "autoprune.targets.runtimes:Command"}
        with pytest.raises(Untrusted, match="would run the target 'touch "):
            reopen(run_of(tables("target", ours), tmp_path))
        assert not mark.exists()

    def test_a_file_that_is_not_there_is_said_to_be_missing_and_not_changed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`changed since you allowed it: 643dd253bcf1, now ` of a policy that was applied in another folder."""
        (tmp_path / "mine.py").write_text("def make(): ...")
        monkeypatch.chdir(tmp_path)
        trust.remember([trust.Code("task", "mine.py:make")])
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        with pytest.raises(Untrusted, match=r"names the task 'mine\.py:make', and .*mine\.py is not there; go to"):
            trust.restored({"task": {"use": "mine.py:make"}}, "a policy")

    def test_a_relative_address_is_no_way_round(self, mark: Path, code: str, tmp_path: Path) -> None:
        with pytest.raises(Untrusted):
            reopen(run_of(tables("task", {"use": "evil.py:make"}), tmp_path))
        assert not mark.exists()

    def test_plugins_of_ours_are_named_freely(self) -> None:
        given = {"task": {"use": "fashion_mnist"}, "controller": {"use": "autoprune.controllers.uniform:Deep"}}
        assert not list(trust.named(trust.restored(given, "a file")))


class TestTheUsersOwn:
    def test_all_that_is_not_allowed_is_named_at_once(self, code: str) -> None:
        given = {**tables("task", {"use": code}), "evaluator": {"use": "their.package:Evaluator"}}
        with pytest.raises(Untrusted, match=r"--trust .*evil.py:make --trust their.package:Evaluator"):
            trust.restored(given, "a file")

    def test_what_was_allowed_once_is_not_asked_for_again(self, code: str) -> None:
        given = tables("task", {"use": code})
        trust.restored(given, "a file", trust=[code])
        assert trust.restored(given, "a file").task.use == code

    def test_a_changed_file_is_named(self, code: str) -> None:
        given = tables("task", {"use": code})
        trust.remember(trust.named(config.parse(given, "mine")))
        Path(code.removesuffix(":make")).write_text("def make(): ...\n")
        with pytest.raises(Untrusted, match=r"evil.py:make' \(changed since you allowed it: \w{12}, now \w{12}\)"):
            trust.restored(given, "a file")

    def test_the_list_is_text_that_a_person_may_write(self, code: str) -> None:
        trust.place().write_text(f"# mine\n\n- {code}\n")
        Path(code.removesuffix(":make")).write_text("def make(): ...\n")
        assert trust.restored(tables("task", {"use": code}), "a file").task.use == code

    def test_a_file_that_cannot_be_read_is_not_allowed_for_ever(self, tmp_path: Path) -> None:
        address = f"{tmp_path / 'later.py'}:make"
        given = tables("task", {"use": address})
        with pytest.raises(Untrusted):
            trust.restored(given, "a file", trust=[address])
        (tmp_path / "later.py").write_text("def make(): ...\n")
        with pytest.raises(Untrusted, match="not on your list"):
            trust.restored(given, "a file")

    def test_no_place_for_the_list_stops_no_search(self, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AUTOPRUNE_ALLOWED", "/proc/nowhere/allowed.txt")
        given = tables("task", {"use": code})
        trust.remember(trust.named(config.parse(given, "mine")))
        with pytest.raises(Untrusted):
            trust.restored(given, "a file")

    def test_a_line_break_in_an_address_allows_nothing_else(self, code: str) -> None:
        trust.remember([trust.Code("task", f"x:y\n- {code}")])
        with pytest.raises(Untrusted):
            trust.restored(tables("task", {"use": code}), "a file")


@pytest.mark.parametrize(
    ("kind", "address", "told"),
    [
        ("task", "builtins:dict", "builtins is Python's own and holds no task"),
        ("task", "json:loads", "json is Python's own and holds no task"),
        ("evaluator", "os:system", "os is Python's own and holds no evaluator"),
        ("evaluator", "builtins:str", "builtins is Python's own and holds no evaluator"),
    ],
)
def test_an_address_that_leads_to_no_plugin_is_refused_before_it_is_called(kind: str, address: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        plugins.build(kind, {"use": address})
