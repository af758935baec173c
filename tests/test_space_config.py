"""What a person says about the space: which choices may vary, within which limits, and which move together."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from autoprune import config, plugins
from autoprune.command.cli import main
from autoprune.errors import BudgetError, ConfigError
from autoprune.runs import study
from autoprune.structure.trace import trace
from autoprune.testing.controllers import ControllerContract, drive
from autoprune.testing.surrogate import half, toy_space
from autoprune.values.asks import Asks
from autoprune.values.budget import Budget
from autoprune.values.space import Choice, Policy, SearchSpace
from tests import ASSETS
from tests.making import group

NAMES = ("stem", "layer1.0.conv1", "layer1.1.conv1", "layer3.0.conv1")
CHOICES = tuple(
    dataclasses.replace(group(name, of, layers), producers=layers[:-1])
    for name, of, layers in zip(
        NAMES,
        (16, 16, 16, 64),
        (("stem", "c2", "fc"), *((name, name.replace("conv1", "conv2")) for name in NAMES[1:])),
        strict=True,
    )
)
SCRATCH = {"max_sparsity": 0.8}


def asked(**space: Any) -> config.Space:
    return config.parse({"task": {"use": "x"}, "space": {**SCRATCH, **space}}, "test").space


def levels(**space: Any) -> list[tuple[int, ...]]:
    return [choice.levels for choice in asked(**space).limited(CHOICES)]


def fault(**space: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        asked(**space).limited(CHOICES)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestLimits:
    @pytest.mark.parametrize("of", ["stem", "c2", "c?", ["stem"], ["c2"]])
    def test_c2_that_belongs_to_stem_finds_stem(self, of: object) -> None:
        """A choice is found by its name and by every layer that produces its units."""
        free = levels()
        assert levels(exclude=of) == [(16,), *free[1:]]
        assert levels(group=[{"match": of, "max_sparsity": 0}]) == [(16,), *free[1:]]
        assert levels(group=[{"match": of, "fix": 8}]) == [(8,), *free[1:]]

    def test_names_come_before_layers(self) -> None:
        """`layer1.*` means the choices of that name, though their readers are called so, too."""
        found = asked(group=[{"match": "layer1.*", "fix": 5}]).limited(CHOICES)
        assert [c.levels == (5,) for c in found] == [False, True, True, False]

    def test_lists_of_globs(self) -> None:
        found = levels(exclude=["layer1.*", "stem"])
        assert [len(one) for one in found] == [1, 1, 1, 52]

    def test_a_floor_a_cap_and_a_step(self) -> None:
        rule = {"match": "layer3.*", "floor": 20, "cap": 48}
        assert levels(group=[rule])[3] == tuple(range(20, 49))
        assert levels(step=8, group=[rule])[3] == (24, 32, 40, 48)
        assert levels(step=8, group=[{**rule, "cap": 44}])[3] == (24, 32, 40)
        assert levels(group=[rule, {"match": "*", "fix": 7}])[3] == (7,)
        assert levels(exclude="layer3.*", group=[rule])[3] == (64,)

    def test_of_what_is_below_the_dense_network_the_share_is_of_all(self) -> None:
        capped = asked(group=[{"match": "layer3.*", "cap": 48}]).limited(CHOICES)[3]
        assert (capped.dense, capped.sparsity(48)) == (64, 0.25)
        assert asked().limited(CHOICES)[3].of == 0

    @pytest.mark.parametrize(
        ("space", "said"),
        [
            ({"exclude": "fc"}, "[space] exclude = 'fc' matches no choice: its own channels are in none; as a layer it "
                                "belongs to 'stem'"),
            ({"exclude": ["stem", "layer9.*"]}, "[space] exclude = 'layer9.*' matches no choice; there are stem, "),
            ({"exclude": "layer1.0.conv"}, "matches no choice; did you mean 'layer1.0.conv1'?; there are stem, "),
            ({"exclude": "stem.2"}, "[space] exclude = 'stem.2' matches no choice; did you mean 'stem'?"),
            ({"group": [{"match": ["stem", "c3"]}]}, "[[space.group]] match = 'c3' matches no choice"),
            ({"group": [{"match": "c2", "fix": 17}]}, "match = 'c2': fix = 17, but 'stem' has 16 units"),
            ({"group": [{"match": "*", "floor": 32}]}, "match = '*': floor = 32, but 'stem' has 16 units"),
            ({"group": [{"match": "c2", "floor": 12, "cap": 8}]}, "cap = 8 of 'stem': other limits keep 12 of its 16"),
            ({"max_sparsity": 0.25, "group": [{"match": "c2", "cap": 8}]}, "cap = 8 of 'stem': other limits keep 12"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_is_one_line(self, space: dict[str, Any], said: str) -> None:
        assert said in fault(**space)

    @pytest.mark.parametrize("wrong", [3, "", [3], [""], {"a": 1}])
    def test_what_is_no_pattern_is_named_with_its_place(self, wrong: object) -> None:
        for place, space in (("exclude", {"exclude": wrong}), ("group.0.match", {"group": [{"match": wrong}]}),
                             ("ties.0", {"ties": [wrong]})):  # fmt: skip
            with pytest.raises(ConfigError) as caught:
                asked(**space)
            assert str(caught.value) == f"test: space.{place} = {wrong!r}: write a name or a glob, or a list of them"

    @given(st.floats(0, 0.99), st.integers(1, 80), st.integers(1, 64), st.integers(1, 64))
    def test_all_limits_hold_at_once(self, most: float, step: int, floor: int, cap: int) -> None:
        rule = {"match": "layer3.*", "floor": floor, "cap": cap}
        try:
            choice = asked(max_sparsity=most, step=step, group=[rule]).limited(CHOICES)[3]
        except ConfigError:
            assert floor > cap or 64 * (1 - most) > cap
            return
        assert all(floor <= k <= cap and choice.sparsity(k) <= most + 1e-9 for k in choice.levels)
        assert len(choice.levels) == 1 or all(k % step == 0 for k in choice.levels if k < 64)


class TestTies:
    def test_globs_and_layers_are_tied(self) -> None:
        assert asked(ties=[["layer1.*.conv1"]]).tied(CHOICES) == ((1, 2),)
        assert asked(ties=["layer1.*"]).tied(CHOICES) == ((1, 2),)
        assert asked(ties=[["c2", "layer1.0.conv1"]]).tied(CHOICES) == ((0, 1),)

    @pytest.mark.parametrize(
        ("ties", "said"),
        [
            ([["stem"]], "[space] ties: stem finds 'stem' alone; a tie is of two choices or more"),
            ([["stem", "c2"]], "[space] ties: stem, c2 finds 'stem' alone; a tie is of two choices or more"),
            ([["stem", "c9"]], "[space] ties = 'c9' matches no choice"),
            ([["stem", "layer1.*"], ["layer1.0.*", "layer3.*"]], "'layer1.0.conv1' is in two of them"),
        ],
    )
    def test_a_tie_that_cannot_be_is_one_line(self, ties: list[list[str]], said: str) -> None:
        with pytest.raises(ConfigError) as caught:
            asked(ties=ties).tied(CHOICES)
        assert said in str(caught.value)

    def test_choices_with_different_numbers_of_levels_are_one_line(self) -> None:
        space = asked(ties=[["stem", "layer3.*"]])
        with pytest.raises(ConfigError) as caught:
            SearchSpace("x", space.limited(CHOICES), ties=space.tied(CHOICES))
        said = "stem (13), layer3.0.conv1 (52) have different numbers of levels; only choices of as many can be tied"
        assert str(caught.value) == said


class TestStep:
    def test_a_step_above_a_group_s_width_is_said(self) -> None:
        (said,) = asked(step=32).remarks(CHOICES)
        assert said == (
            "Too coarse a step leaves nothing to decide of stem (16 units, step 32), layer1.0.conv1 (16 units, step "
            "32), layer1.1.conv1 (16 units, step 32): no multiple of it lies within their limits."
        )

    def test_what_was_asked_to_stay_is_not_said(self) -> None:
        assert asked(step=32, exclude=["stem", "layer1.*"]).remarks(CHOICES) == ()
        assert asked(step=32, group=[{"match": ["stem", "layer1.*"], "fix": 5}]).remarks(CHOICES) == ()
        assert asked(step=8).remarks(CHOICES) == ()

    def test_of_a_multiple_that_was_found_the_number_is_said(self) -> None:
        (said,) = asked(step="auto", exclude=["stem", "layer1.1.*"]).remarks(CHOICES, auto=32)
        assert "layer1.0.conv1 (16 units, step 32):" in said

    def test_check_and_report_say_it(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = tmp_path / "mine.toml"
        file.write_text(f'[task]\nuse = "{ASSETS / "mine.py"}:make"\n[space]\nstep = 12\n')
        assert main(["check", str(file)]) == 0
        assert "Too coarse a step leaves nothing to decide of 0 (8 units, step 12)" in capsys.readouterr().out


class TestWhatIsBelowTheDenseNetwork:
    """A choice that is fixed or capped: the dense network is no policy of the space, and all else holds."""

    @pytest.fixture
    def space(self) -> SearchSpace:
        toy = toy_space(depth=4, step=4)
        rules = [{"match": "conv1", "fix": 8}, {"match": "conv2", "cap": 24}]
        choices = asked(step=4, group=rules).limited(toy.choices)
        return SearchSpace("capped", choices, toy.ops, toy.parameters)

    def test_every_policy_keeps_to_it(self, space: SearchSpace) -> None:
        assert not space.contains(space.dense())
        for budget in (half(space, 0.4), Budget(space)):
            asks = Asks(budget, 0)
            for _ in range(40):
                policy = asks.fresh(budget.fit(space.cube.policy(asks.dice().random(len(space.cube)))))
                assert space.contains(policy)
                assert budget.admits(policy)
                assert policy.levels[1] == 8
                assert policy.levels[2] <= 24
                assert space.cube.policy(space.cube.point(policy)) == policy
        assert Budget(space).fit(space.thinnest()) == space.thinnest()

    @pytest.mark.parametrize("name", ["uniform", "random", "evolution", "bayes", "cmaes", "nsga2", "ddpg"])
    def test_every_controller_keeps_to_it(self, space: SearchSpace, name: str) -> None:
        controller = plugins.build("controller", {"use": name}, space=space, budget=half(space, 0.4), seed=0)
        for trial in drive(controller, 1 if name == "uniform" else 12, space=space):
            assert space.contains(trial.policy)
            assert half(space, 0.4).admits(trial.policy)

    def test_levels_that_reach_it_need_no_other_size(self) -> None:
        with pytest.raises(ConfigError, match="ascending whole numbers from 0 on, below 4, are right"):
            dataclasses.replace(group("a", 4), of=4)


class TestInfeasible:
    def build(self, budget: str, **space: Any) -> None:
        tables = {"task": {"use": f"{ASSETS / 'mine.py'}:make"}, "space": space, "budget": {"macs": budget}}
        study.build(config.parse(tables, "test"), found={"precision": "fp32"})

    def test_a_budget_that_the_user_s_own_caps_forbid_names_them(self) -> None:
        with pytest.raises(BudgetError) as caught:
            self.build("10%", group=[{"match": "3", "max_sparsity": 0.5}], exclude="0")
        said = str(caught.value)
        assert "(macs=10%) cannot be met: the smallest reachable is " in said
        assert "with your limits (exclude = 0; max_sparsity = 0.5 of 3); without them 1.9% could be reached" in said
        assert "\n" not in said

    def test_limits_that_change_nothing_are_not_blamed(self) -> None:
        with pytest.raises(BudgetError) as caught:
            self.build("1%", max_sparsity=0.99, step=1)
        assert "limits" not in str(caught.value)

    def test_a_step_is_blamed(self) -> None:
        with pytest.raises(BudgetError, match=r"with your limits \(step = 8\); without them 1.9% could be reached"):
            self.build("10%", max_sparsity=0.99, step=8)


def test_the_trace_says_which_layers_produce_the_units_of_a_choice() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.c2, self.fc = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x).relu()
            found: torch.Tensor = self.fc((x + self.c2(x)).mean((2, 3)))
            return found

    (choice,) = trace(Residual(), torch.zeros(1, 3, 4, 4)).choices
    assert choice.producers == ("stem", "c2")
    assert choice.layers == ("stem", "c2", "fc")
    space = asked(group=[{"match": "c2", "fix": 3}])
    assert [c.levels for c in space.limited([choice])] == [(3,)]
    assert Policy((3,)) == SearchSpace("x", space.limited([choice])).thinnest()


def blocks(language: str) -> list[str]:
    """The blocks of docs/space.md in one language."""
    text = (ASSETS.parent.parent / "docs" / "space.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_documented_table_is_read_as_it_is_explained() -> None:
    text, kinds = blocks("toml")
    assert asked(**tomllib.loads(kinds)["space"]).kinds == ("channel", "block")
    space = config.parse({"task": {"use": "x"}, **tomllib.loads(text)}, "docs/space.md").space
    stages = [f"layer{stage}.0.conv1" for stage in (2, 3, 4)]
    names = ("conv1", "layer1.0.conv1", "layer1.1.conv1", *stages, "head.fc1", "a", "b")
    traced = [group(name, 64) for name in names]
    made = dict(zip(names, space.limited(traced), strict=True))
    assert made["conv1"].levels == made["layer4.0.conv1"].levels == (64,)
    assert made["layer1.0.conv1"].levels == (16, 24, 32, 40, 48, 56, 64)
    assert made["layer2.0.conv1"].levels == (24,)
    assert made["layer3.0.conv1"].levels == made["head.fc1"].levels == (32, 36, 40, 44, 48)
    assert space.tied(traced) == ((1, 2), (7, 8))


class TestTheDocumentedPlugin(ControllerContract):
    """A controller of a few lines on `Asks` keeps every promise of ours."""

    @pytest.fixture
    def make(self, tmp_path: Path) -> Any:
        (tmp_path / "mine.py").write_text(blocks("python")[-1])
        return plugins.load("controller", f"{tmp_path / 'mine.py'}:Mine")


class TestUniform:
    def test_layers_whose_names_differ_in_a_number_move_together(self) -> None:
        choices = (*(group(f"layers.{at}.mlp", 8) for at in range(3)), group("first", 4), *TestKinds.BLOCKS)
        assert asked(uniform=True).tied(choices) == ((0, 1, 2),)
        assert asked(uniform=True, ties=[["layers.0.mlp", "layers.2.mlp"]]).tied(choices) == ((0, 2),)
        assert asked().tied(choices) == ()

    def test_what_cannot_be_met_is_one_line(self) -> None:
        said = r"uniform = true: 'layers.0.mlp' has 8 and 'layers.1.mlp' has 6 units, so that the layers are not alike"
        with pytest.raises(ConfigError, match=said):
            asked(uniform=True).tied((group("layers.0.mlp", 8), group("layers.1.mlp", 6)))


class TestKinds:
    BLOCKS = (Choice("layer1.0", (0, 1), "block"), Choice("layer1.1", (0, 1), "block"))

    def test_channels_alone_unless_others_are_asked_for(self) -> None:
        assert asked().kinds == ("channel",)
        assert asked(kinds=["channel", "branch"]).kinds == ("channel", "branch")
        assert asked(kinds="block").kinds == ("block",)

    @pytest.mark.parametrize(
        ("kinds", "said"),
        [
            (["blocks"], "write a list of 'channel', 'block', 'branch'"),
            ([], "write a list of 'channel', 'block', 'branch'"),
            (["block", "branch"], "a block without its branches is no block: write 'block' or 'branch'"),
        ],
    )
    def test_others_are_one_line(self, kinds: list[str], said: str) -> None:
        with pytest.raises(ConfigError, match=re.escape(said)):
            asked(kinds=kinds)

    def test_a_block_leaves_whole_unless_it_is_to_stay(self) -> None:
        def left(**space: Any) -> list[tuple[int, ...]]:
            return [choice.levels for choice in asked(**space).limited(self.BLOCKS)]

        assert left(max_sparsity=0.1, step=8) == [(0, 1), (0, 1)]
        assert left(exclude="layer1.0") == [(1,), (0, 1)]
        assert left(group=[{"match": "layer1.1", "floor": 1}]) == [(0, 1), (1,)]
        assert left(group=[{"match": "layer1.1", "max_sparsity": 0.0}]) == [(0, 1), (1,)]


class PostNorm(nn.Module):
    """As a layer of a BERT: a norm follows each sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 6)
        self.up, self.down, self.norm = nn.Linear(6, 8), nn.Linear(8, 6), nn.LayerNorm(6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(self.norm(x + self.down(self.up(x).relu())))


@pytest.mark.parametrize(
    ("model", "kind", "said"),
    [
        (PostNorm(), "block", ("No choice of kind 'block' was found: no block ends with the sum of",)),
        (PostNorm(), "branch", ()),
        (nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 2)), "branch", ("No choice of kind 'branch' was found: nothing",)),
    ],
)
def test_a_kind_that_was_asked_for_and_is_not_there_is_said(model: nn.Module, kind: str, said: tuple[str, ...]) -> None:
    """A search of a BERT over widths and blocks was one over widths, without a word."""
    space = config.parse({"task": {"use": "x"}, "space": {"kinds": ["channel", kind]}}, "a test").space
    found = space.remarks(trace(model, torch.zeros(1, 3), kinds=space.kinds).choices)
    assert len(found) == len(said)
    assert all(one.startswith(begin) for one, begin in zip(found, said, strict=True))
