"""The house rules that a reader may rely on: floors, size, and no circle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "autoprune"
FLOORS = [  # a file may import from floors below its own, and from its own room
    {"errors", "dice", "agreement", "task", "report_plots", "latency_plots", "terminal", "arguments"},
    {"space", "flow", "plugins", "data", "fusion", "layout", "timing", "heap"},
    {"tables", "codes"},
    {"train", "trial", "prune", "operators", "models", "fused", "footprint"},
    {"proof", "run", "rewards", "tasks", "precision"},
    {"trace", "policy_file", "export"},
    {"criteria", "report", "targets"},
    {"protocols"},
    {"budget", "loop", "costs", "evaluators"},
    {"walk"},
    {"env"},
    {"controllers", "config"},
    {"testing", "study"},
    {"fidelity", "verify"},
    {"apply", "finish", "progress"},
    {"api"},
    {"cli"},
    {"__main__"},
]
FLOOR = {name: height for height, names in enumerate(FLOORS) for name in names}
FILES = sorted(p for p in ROOT.rglob("*.py") if p.name != "__init__.py")
ABOVE = {"data/train_resnet20.py"}  # a recipe run by hand, which uses the whole house


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "autoprune":
            _, *below = (node.module or "").split(".")
            found |= {below[0]} if below else {alias.name for alias in node.names}
    return found - {"__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
class TestEveryFile:
    def test_imports_only_from_lower_floors(self, path: Path) -> None:
        if str(path.relative_to(ROOT)) in ABOVE:
            pytest.skip("run by hand")
        for below in imported(path) - {room(path)}:
            assert FLOOR[below] < FLOOR[room(path)], f"{path.name} reaches up to {below}"

    def test_is_short_and_says_what_it_is(self, path: Path) -> None:
        text = path.read_text()
        assert ast.get_docstring(ast.parse(text)), "no module docstring"
        assert text.count("\n") <= 400
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.body[0].lineno < 60, node.name
