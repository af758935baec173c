"""The house rules that a reader may rely on: rooms without circles, what never imports what, and size.

Every import counts, wherever it stands in a file: at its head, in a function, under TYPE_CHECKING.
"""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "autoprune"
FILES = {
    ".".join(p.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): p for p in ROOT.rglob("*.py")
}
BY_HAND = "autoprune.data.train_resnet20"  # a recipe run by hand, which uses the whole house
LINES, BODY, FLOORS, ROOMS = 350, 50, 12, 24

NEVERS = {  # room or file -> what it never imports, not even through others
    "values": ("torch", "autoprune.protocols", "autoprune.structure", "autoprune.engine"),
    "structure": tuple(f"autoprune.{room}" for room in ("evaluators", "controllers", "costs", "runs")),
    "controllers": tuple(
        f"autoprune.{room}" for room in ("evaluators", "structure", "engine", "task", "train", "runs")
    ),
    "evaluators": tuple(f"autoprune.{room}" for room in ("controllers", "costs", "runs", "report")),
    "costs": tuple(f"autoprune.{room}" for room in ("controllers", "evaluators", "runs", "report")),
    "report": tuple(f"autoprune.{room}" for room in ("controllers", "evaluators", "costs", "runs")),
    "runs": ("autoprune.command",),
}
WRITES = {"write_text", "write_bytes", "mkdir", "touch", "rmtree", "fsync", "NamedTemporaryFile"}
HANDS_ON = {"autoprune.runs.adapted"}  # moves all splits to a device, and reads none


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


@cache
def imported(module: str) -> frozenset[str]:
    """The modules that a file imports, those of ours by the file that they name."""
    found: set[str] = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            place = node.module or ""
            below = {f"{place}.{alias.name}" for alias in node.names}
            found |= (below & FILES.keys()) or {place}
    return frozenset(found) - {module}


def room(module: str) -> str:
    """The folder below autoprune/, with the folders in it; of a file beside them, itself."""
    return module.split(".")[1] if "." in module else ""


def ours(module: str) -> set[str]:
    return {name for name in imported(module) if name in FILES and name != "autoprune"}


def reached(module: str) -> dict[str, str]:
    """All that a file imports directly and through others of ours, and through which."""
    found: dict[str, str] = dict.fromkeys(imported(module), module)
    queue = list(ours(module))
    while queue:
        for name in imported(here := queue.pop()):
            if name not in found:
                found[name] = here
                queue += [name] if name in FILES and name != "autoprune" else []
    return found


def heights(below: dict[str, set[str]]) -> dict[str, int]:
    """How many floors are below each; raises CycleError where there is a circle."""
    found: dict[str, int] = {}
    for name in graphlib.TopologicalSorter(below).static_order():
        found[name] = 1 + max((found[other] for other in below.get(name, ())), default=-1)
    return found


def doors() -> set[str]:
    """Files that hand on what others hold: they stand for no room."""
    return {"autoprune", "autoprune.__main__", "autoprune.env", BY_HAND}


class TestTheWholeHouse:
    def test_no_file_imports_itself_through_others(self) -> None:
        assert heights({module: ours(module) for module in FILES})

    def test_rooms_stand_on_a_few_floors_without_a_circle(self) -> None:
        below: dict[str, set[str]] = {}
        for module in FILES.keys() - doors():
            below.setdefault(room(module), set()).update(room(name) for name in ours(module))
        floors = heights({name: others - {name} for name, others in below.items()})
        assert max(floors.values()) + 1 <= FLOORS, sorted(floors.items(), key=lambda entry: entry[1])
        assert len([p for p in ROOT.rglob("*") if p.is_dir() and any(p.glob("*.py"))]) <= ROOMS

    def test_every_folder_says_what_it_is(self) -> None:
        for folder in (p for p in ROOT.rglob("*") if p.is_dir() and any(p.glob("*.py"))):
            assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder

    def test_budgets_load_no_torch(self) -> None:
        code = "import sys, autoprune.values.budget, autoprune.values.trial; print('torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "False\n"

    def test_tests_lie_in_the_rooms_of_what_they_test(self) -> None:
        tests = Path(__file__).parent
        for folder in (p for p in tests.rglob("*") if p.is_dir() and any(p.glob("test_*.py")) and p.name != "zoo"):
            assert (ROOT / folder.relative_to(tests)).is_dir(), folder


@pytest.mark.parametrize("place", NEVERS)
def test_never(place: str) -> None:
    for module in (m for m in FILES if m == f"autoprune.{place}" or m.startswith(f"autoprune.{place}.")):
        for name, through in reached(module).items():
            wrong = [never for never in NEVERS[place] if name == never or name.startswith(f"{never}.")]
            assert not wrong, f"{module} imports {name} through {through}"


@pytest.mark.parametrize("module", sorted(FILES.keys() - {BY_HAND}))
class TestEveryFile:
    def test_is_short_and_says_what_it_is(self, module: str) -> None:
        text = FILES[module].read_text(encoding="utf-8")
        assert ast.get_docstring(tree(module)), "no module docstring"
        assert text.count("\n") <= LINES
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lines = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
                assert lines <= BODY, f"{node.name} has {lines} lines"

    def test_prints_and_writes_only_where_that_is_its_work(self, module: str) -> None:
        if room(module).startswith("command") or module.startswith("autoprune.data."):
            return
        called = set(_calls(tree(module)))
        assert "print" not in called
        if not module.startswith("autoprune.files") and module != "autoprune.runs.journal":
            assert not called & WRITES, "it writes files"

    def test_reads_the_test_split_only_to_report(self, module: str) -> None:
        found = (n for n in ast.walk(tree(module)) if isinstance(n, ast.Attribute) and n.attr == "test")
        reads = any(_is_task(n.value) for n in found)
        assert not reads or module in {"autoprune.runs.compare", *HANDS_ON} or room(module) == "report"


def _calls(parsed: ast.Module) -> Iterator[str]:
    """The names of all functions and methods that are called, but for those of `files.disk`."""
    for node in ast.walk(parsed):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield "" if isinstance(node.func.value, ast.Name) and node.func.value.id == "disk" else node.func.attr
        elif isinstance(node, ast.Call):
            yield getattr(node.func, "id", "")


def _is_task(node: ast.expr) -> bool:
    return (isinstance(node, ast.Name) and node.id == "task") or (
        isinstance(node, ast.Attribute) and node.attr == "task"
    )
