"""Which precision networks are scored and trained in: rules without a clock, and a gain that is handed in."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autoprune.engine import precision, speed
from autoprune.engine.precision import Chosen, Gain, Way
from autoprune.errors import ConfigError
from autoprune.inputs import Inputs
from autoprune.models.resnet import ResNet
from autoprune.testing.evaluators import state_of, toy_setting

BATCH = torch.arange(32.0).view(8, 4)


@pytest.fixture(autouse=True)
def _able(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor with instructions for bf16, whatever this one has."""
    monkeypatch.setattr(precision, "in_hardware", lambda device: True)


def gains(*found: float) -> Gain:
    """What is timed, one after the other; nothing is timed more often."""
    left = list(found)
    return lambda old, new, batch: left.pop(0)


class Rounding(nn.Module):
    """Errs in bf16 by `error`, and may raise."""

    def __init__(self, error: float = 0.0, fault: str = "") -> None:
        super().__init__()
        self.error, self.fault = error, fault

    def forward(self, x: Tensor) -> Tensor:
        rounded = torch.is_autocast_enabled("cpu")
        if rounded and self.fault:
            raise RuntimeError(self.fault)
        return x + self.error if rounded else x


class Viewed(nn.Module):
    """A network whose reshape has a number that fits none but two samples a row."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.read, self.features = nn.Linear(features, 4), features

    def forward(self, x: Tensor) -> Tensor:
        return self.read(x.view(-1, self.features))


class Picky(nn.Module):
    """A network that raises what it likes in another precision."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.read(x)
        if y.dtype != torch.float32:
            raise TypeError("Got unsupported ScalarType BFloat16")
        return y


class TestChoosing:
    def test_takes_bf16_where_it_is_faster(self) -> None:
        assert precision.choose(Rounding(), BATCH, gains(1.2)) == Chosen(
            "bf16", "bf16", "bf16 is 1.20 times as fast as fp32"
        )

    def test_trains_in_bf16_where_it_gains_too_little_for_scores(self) -> None:
        """What is trained in never depends on what was timed."""
        found = precision.choose(Rounding(), BATCH, gains(1.19))
        assert (found.score, found.training) == ("fp32", "bf16")
        assert found.because == "bf16 is 1.19 times as fast as fp32, and 1.2 times would pay"
        assert precision.trains(Rounding(), BATCH) == "bf16"

    @pytest.mark.parametrize("error", [5.0, float("nan")])
    def test_takes_fp32_where_outputs_differ_and_times_nothing(self, error: float) -> None:
        found = precision.choose(Rounding(error), BATCH, gains())
        assert (found.score, found.training) == ("fp32", "fp32")

    def test_takes_fp32_where_bf16_does_not_exist(self) -> None:
        assert precision.choose(Rounding(fault="not implemented for 'BFloat16'"), BATCH, gains()).score == "fp32"

    def test_takes_fp32_where_the_processor_only_emulates_bf16(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(precision, "in_hardware", lambda device: False)
        found = precision.choose(Rounding(), BATCH, gains())
        assert found == Chosen("fp32", "fp32", "torch tells of no instructions for bf16 here")

    def test_a_hardcoded_view_is_evaluated_in_fp32(self) -> None:
        """What the user saw: a traceback, because no output has a row a sample."""
        assert precision.choose(Viewed(16), torch.randn(8, 8), gains()).score == "fp32"
        assert precision.choose(Viewed(32), torch.randn(2, 8), gains()).score == "fp32"

    def test_a_network_that_does_not_run_in_bf16_is_evaluated_in_fp32(self) -> None:
        assert precision.choose(Picky(), torch.randn(8, 8), gains()).score == "fp32"

    def test_looks_at_a_few_of_large_photographs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """On 128 images of 352 x 352 it took minutes before the first trial."""
        monkeypatch.setattr(precision, "AT_ONCE", 3 * 4 * 4 + 1)  # bytes; a sample has four numbers of four
        sizes: list[int] = []
        model = Rounding()
        model.note = lambda x: sizes.append(len(x))
        model.register_forward_pre_hook(lambda module, args: module.note(*args))
        precision.choose(model, BATCH, gains(1.0))
        assert max(sizes) == 3

    def test_only_looks(self) -> None:
        model = toy_setting()[0].model.train()
        before = state_of(model)
        precision.choose(model, torch.randn(4, 1, 8, 8), gains(2.0, 2.0), lambda net: 0.9)
        assert state_of(model) == before

    def test_its_rules_know_no_clock(self) -> None:
        tree = ast.parse(Path(precision.__file__).read_text())
        assert not {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names} & {"time", "datetime"}


class TestInt8:
    @pytest.fixture
    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return ResNet(8).eval()

    def test_is_taken_where_it_is_faster_than_bf16_and_the_metric_stays(self, model: nn.Module) -> None:
        images = torch.randn(16, 3, 16, 16)
        found = precision.choose(model, images, gains(2.0, 1.5), lambda net: 0.9)
        assert (found.score, found.training) == ("int8", "bf16")
        assert found.because == "bf16 is 2.00 times as fast as fp32; int8 is 1.50 times as fast as bf16"
        scores = iter([0.900, 0.903])
        moved = precision.choose(model, images, gains(2.0, 1.5), lambda net: next(scores))
        assert (moved.score, "metric moves from 0.903 to 0.9" in moved.because) == ("bf16", True)
        assert precision.choose(model, images, gains(2.0, 1.1), lambda net: 0.9).score == "bf16"
        assert precision.choose(model, images, gains(2.0)).score == "bf16"

    def test_is_taken_where_bf16_gains_nothing_and_it_does(self, model: nn.Module) -> None:
        """A processor with AVX512-VNNI and no AMX takes a network 2.6 times as fast in int8, and bf16 0.7 times."""
        images, against = torch.randn(16, 3, 16, 16), list[str]()

        def gain(old: Way, new: Way, batch: Inputs) -> float:
            against.append(f"{new.precision} against {old.precision}")
            return 0.71 if new.precision == "bf16" else 2.62

        found = precision.choose(model, images, gain, lambda net: 0.9)
        assert (found.score, found.training, against) == ("int8", "bf16", ["bf16 against fp32", "int8 against fp32"])
        assert found.because == (
            "bf16 is 0.71 times as fast as fp32, and 1.2 times would pay; int8 is 2.62 times as fast as fp32"
        )
        assert precision.choose(model, images, gains(0.71, 1.1), lambda net: 0.9).score == "fp32"

    def test_is_for_networks_that_can_be_read(self) -> None:
        found = precision.choose(Rounding(), BATCH, gains(2.0), lambda net: 0.9)
        assert found.score == "bf16"
        assert "int8 is not for it" in found.because


class TestPinned:
    @pytest.mark.parametrize(("asked", "training"), [("fp32", "fp32"), ("bf16", "bf16"), ("int8", "bf16")])
    def test_is_what_was_asked_for(self, asked: precision.Precision, training: str) -> None:
        torch.manual_seed(0)
        found = precision.pinned(asked, ResNet(8).eval(), torch.randn(16, 3, 16, 16))
        assert (found.score, found.training, found.because) == (asked, training, "it was asked for")

    def test_rounding_that_shows_is_said(self) -> None:
        assert "differ by" in precision.pinned("bf16", Rounding(5.0), BATCH).because

    @pytest.mark.parametrize("asked", ["bf16", "int8"])
    def test_is_refused_in_one_line_where_the_network_does_not_run_so(self, asked: precision.Precision) -> None:
        with pytest.raises(ConfigError, match=f"search.precision = '{asked}': .*; 'auto' or 'fp32' is right") as wrong:
            precision.pinned(asked, Rounding(fault="not implemented for 'BFloat16'"), BATCH)
        assert "\n" not in str(wrong.value)


class TestSpeedup:
    """On clocks that are made up."""

    def timed(self, monkeypatch: pytest.MonkeyPatch, *seconds: float) -> tuple[float, int]:
        """What comes out where runs take `seconds`, in turn and over again; and how many runs there were."""
        now, runs = [0.0], [0]

        def forward(way: Way, batch: Tensor) -> Tensor:
            now[0] += seconds[runs[0] % len(seconds)]
            runs[0] += 1
            return batch

        monkeypatch.setattr(speed, "forward", forward)
        monkeypatch.setattr(speed.time, "process_time", lambda: now[0])
        monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])
        return speed.speedup(Way(Rounding(), "fp32"), Way(Rounding(), "bf16"), BATCH), runs[0]

    def test_is_of_the_least_disturbed_runs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ratio, runs = self.timed(monkeypatch, 0.02, 0.05, 0.09, 0.01, 0.03, 0.02)
        assert ratio == pytest.approx(2.0)
        assert runs == 2 * speed.ROUNDS

    def test_gives_up_at_once_where_it_crawls(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.timed(monkeypatch, 0.02, 0.4) == (pytest.approx(0.05), 2)

    def test_slow_networks_are_run_a_few_times(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.timed(monkeypatch, 2.0, 1.0) == (pytest.approx(2.0), 2 * speed.FEWEST)
