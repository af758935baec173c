"""The file a person writes: what it means, and what is said of one that is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from autoprune import config
from autoprune.errors import ConfigError
from autoprune.values.budget import ceiling
from tests.making import group

TASK = '[task]\nuse = "fashion_mnist"\n'
SHIPPED = sorted((Path(__file__).parent.parent / "search_spaces").glob("*.toml"))
CHOICES = (group("conv1", 16), group("layer1.0.conv1", 16), group("layer1.1.conv1", 32), group("layer2.0.conv1", 60))


def read(folder: Path, text: str, **over: object) -> config.Config:
    path = folder / "mine.toml"
    path.write_text(text)
    return config.read(path, {key.replace("__", "."): value for key, value in over.items()})


def fault(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{folder / 'mine.toml'}")
    return message.removeprefix(f"{folder / 'mine.toml'}").removeprefix(": ")


class TestReading:
    def test_says_every_default(self, tmp_path: Path) -> None:
        made = read(tmp_path, TASK)
        assert made.name == "mine"
        assert made.task.settings == {"use": "fashion_mnist"}
        assert (made.controller.use, made.evaluator.use, made.reward.use) == ("evolution", "recalibrate", "metric")
        assert (made.space.max_sparsity, made.space.step) == (0.8, 1)

    @pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
    def test_takes_what_is_shipped(self, path: Path) -> None:
        budget = config.read(path).budget
        named = {"latency": ["latency"], "front": []}  # a front needs room
        assert list(budget) == named.get(path.stem.rpartition("_")[2], ["macs"])
        assert all(0.25 <= ceiling(written, dense=1.0) < 1 for written in budget.values())

    def test_comes_back_from_json_as_it_went(self, tmp_path: Path) -> None:
        made = read(
            tmp_path, TASK + '[budget]\nmacs = 0.5\n[[space.group]]\nmatch = "a*"\n[controller]\nuse = "x"\nn = [1]'
        )
        assert config.parse(json.loads(json.dumps(made.plain())), "config.json") == made

    def test_lets_the_command_line_have_the_last_word(self, tmp_path: Path) -> None:
        text = TASK + '[search]\nseed = 4\n[controller]\nuse = "bayes"\nstartup = 3\n[budget]\nparams = "20%"'
        made = read(
            tmp_path, text, search__trials=7, budget={"macs": "50%"}, controller={"use": "random"}, task__data="d"
        )
        assert (made.search.trials, made.search.seed) == (7, 4)
        assert made.budget == {"macs": "50%"}
        assert made.controller.settings == {"use": "random"}
        assert made.task.settings == {"use": "fashion_mnist", "data": "d"}

    def test_finds_python_files_beside_itself(self, tmp_path: Path) -> None:
        made = read(tmp_path, '[task]\nuse = "mine.py:make"\n[controller]\nuse = "/abs/c.py:C"')
        assert made.task.use == f"{tmp_path / 'mine.py'}:make"
        assert made.controller.use == "/abs/c.py:C"


class TestFaults:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", 'task is missing; write use = "NAME", see `autoprune plugins`'),
            ("[task]\nmodel = 'a'", 'task.use is missing; write use = "NAME", see `autoprune plugins`'),
            (TASK + "[report]\nfidelity = 3", "report.fidelity = 3: write 0 to switch it off, or at least 5"),
            ("task = 3", "task = 3: input should be an object"),
            (TASK + "[spcae]", "there is no table 'spcae'; did you mean 'space'?"),
            (TASK + "[space]\nstpe = 1", "[space] has no key 'stpe'; did you mean 'step'?"),
            (
                TASK + "[space]\nzzz = 1",
                "[space] has no key 'zzz'; there are max_sparsity, step, granularity, kinds, exclude, ties, uniform, "
                "group",
            ),
            (
                TASK + "[[space.group]]\nmatch = 'a'\nstpe = 1",
                "[space.group.0] has no key 'stpe'; did you mean 'step'?",
            ),
            (TASK + "[[space.group]]\nstep = 1", "space.group.0.match is missing"),
            (TASK + "[space]\nstep = 'a'", "space.step = 'a': a whole number from 1 to 65,536, or 'auto' is right"),
            (TASK + "[space]\nstep = 0", "space.step = 0: a whole number from 1 to 65,536, or 'auto' is right"),
            (TASK + "[space]\nmax_sparsity = 1.0", "space.max_sparsity = 1.0: a number from 0 and below 1 is right"),
            (TASK + "[space]\ngranularity = 'weight'", "space.granularity = 'weight': input should be 'channel'"),
            (TASK + "[search]\ntrials = true", "search.trials = True: a whole number from 1 to 1,000,000 is right"),
            (TASK + "[search]\ndevice = 'tpu'", "search.device = 'tpu': input should be 'cpu' or 'cuda'"),
            (
                TASK + "[search]\ntrials = 2.5\nseed = -1",
                "search.trials = 2.5: a whole number from 1 to 1,000,000 is right (and 1 more)",
            ),
            (TASK + "[budget]\nmacs = '150%'", "budget.macs = '150%': a budget of '150%' is not in (0%, 100%]"),
            (TASK + "[budget]\nmacs = '0%'", "budget.macs = '0%': a budget of '0%' is not in (0%, 100%]"),
            (TASK + "[budget]\nmacs = -3", "budget.macs = -3: a budget of '-3' is not understood"),
            (TASK + "[budget]\nmacs = 'half'", "budget.macs = 'half': a budget of 'half' is not understood"),
            (TASK + "[budget]\nmacs = true", "budget.macs = True: write a share of dense ('50%', 0.5) or a number"),
            (TASK + "[finetune]\nlr = 0", "finetune.lr = 0: a number above 0 and up to 100 is right"),
        ],
    )
    def test_are_named_with_place_value_and_remedy(self, tmp_path: Path, text: str, message: str) -> None:
        assert fault(tmp_path, text).startswith(message)

    def test_of_syntax_are_one_line(self, tmp_path: Path) -> None:
        assert "line 2" in fault(tmp_path, "[task]\nuse = ?\n")

    def test_of_encoding_and_absence_are_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "mine.toml").write_bytes(b"\xff\xfe")
        with pytest.raises(ConfigError, match="not UTF-8"):
            config.read(tmp_path / "mine.toml")
        with pytest.raises(ConfigError, match=r"none.toml cannot be read \(No such file"):
            config.read(tmp_path / "none.toml")


class TestGroups:
    def test_get_the_last_word_on_each_setting(self, tmp_path: Path) -> None:
        text = """[space]
        max_sparsity = 0.5
        [[space.group]]
        match = "layer1.*"
        max_sparsity = 0.75
        step = 4
        [[space.group]]
        match = "layer1.1.*"
        max_sparsity = 0.25
        [[space.group]]
        match = "conv1"
        max_sparsity = 0
        """
        made = read(tmp_path, TASK + text).choices(CHOICES)
        assert [c.levels[:2] for c in made] == [(16,), (4, 8), (24, 28), (30, 31)]

    def test_that_no_pattern_finds_are_listed(self, tmp_path: Path) -> None:
        made = read(tmp_path, TASK + "[[space.group]]\nmatch = 'layer1.0.conv2'")
        with pytest.raises(ConfigError, match=r"matches no choice; did you mean 'layer1.0.conv1'\?; there are conv1, "):
            made.choices(CHOICES)

    @given(st.floats(0, 0.999), st.integers(1, 600), st.integers(1, 40))
    def test_never_lose_more_than_is_allowed(self, most: float, of: int, step: int) -> None:
        made = config.parse({"task": {"use": "x"}, "space": {"max_sparsity": most, "step": step}}, "test")
        (choice,) = made.choices([group("g", of)])
        assert all(1 <= k <= of and choice.sparsity(k) <= most + 1e-9 for k in choice.levels)
        assert all(k % step == 0 for k in choice.levels[:-1])


def test_epochs_become_steps() -> None:
    recipe = config.Finetune(epochs=1.5, batch=100).recipe(1_000, "bf16")
    assert (recipe.steps, recipe.batch, recipe.precision) == (15, 100, "bf16")
    assert config.Finetune(epochs=0).recipe(1_000, "fp32").steps == 0
