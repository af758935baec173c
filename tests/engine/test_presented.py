"""What a metric finds in the network that it is handed: the pruned network, whoever computes."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.criteria import l2
from autoprune.engine.fused import Fused, Fuser
from autoprune.engine.presented import Plainly, presented
from autoprune.evaluators.bench import Bench
from autoprune.evaluators.recalibrate import Recalibrate
from autoprune.task import Split, top1
from autoprune.testing.evaluators import ToyNet, state_of, toy_setting
from tests.making import metric

IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> ToyNet:
    torch.manual_seed(0)
    return ToyNet().eval()


@pytest.fixture
def model() -> ToyNet:
    return network()


def given(do: Callable[[ToyNet], Any], model: ToyNet) -> tuple[Any, Plainly, Fused]:
    """What `do` gives for `model` as a metric is handed it, what ran plainly, and the fused network."""
    fused, plainly = Fuser.of(model, IMAGES)(model, "fp32"), Plainly()
    with presented(model, fused, plainly) as shown:
        return do(shown), plainly, fused  # type: ignore[arg-type]


def inferred(model: nn.Module, *placed: Any) -> Any:
    with torch.inference_mode():
        return model(*placed)


class TestANetworkInAMetric:
    def test_has_parameters(self, model: ToyNet) -> None:
        """`next(model.parameters()).device` raised StopIteration."""
        found, _, _ = given(lambda shown: next(shown.parameters()).device, model)
        assert found == torch.device("cpu")

    def test_has_its_class_config_training_and_attributes(self, model: ToyNet) -> None:
        model.config = SimpleNamespace(num_labels=4)  # type: ignore[assignment]
        shown, _, _ = given(lambda shown: shown, model)
        assert isinstance(shown, ToyNet)
        assert (shown.config.num_labels, shown.training) == (4, False)
        assert state_of(shown) == state_of(network())
        assert [name for name, _ in shown.named_modules()] == [name for name, _ in network().named_modules()]

    def test_is_fused_when_it_is_called(self, model: ToyNet) -> None:
        found, plainly, fused = given(lambda shown: inferred(shown, IMAGES), model)
        assert fused.called
        assert not plainly.passes
        torch.testing.assert_close(found, inferred(model, IMAGES), atol=1e-4, rtol=1e-4)

    def test_has_its_own_forward_afterwards(self, model: ToyNet) -> None:
        with pytest.raises(ValueError, match="no"):
            given(lambda shown: (_ for _ in ()).throw(ValueError("no")), model)
        assert "forward" not in vars(model)

    def test_keeps_a_forward_that_a_user_has_replaced(self, model: ToyNet) -> None:
        fused, plainly, own = Fuser.of(model, IMAGES)(model, "fp32"), Plainly(), lambda images: images.sum()
        vars(model)["forward"] = own
        with presented(model, fused, plainly) as shown:
            assert shown(IMAGES) == IMAGES.sum()
        assert vars(model)["forward"] is own
        assert (plainly.passes, fused.called) == (1, False)

    def test_gives_the_features_of_its_layers(self, model: ToyNet) -> None:
        found, _, fused = given(lambda shown: inferred(shown.conv1, IMAGES), model)
        assert torch.equal(found, inferred(model.conv1, IMAGES))
        assert not fused.called


def hooked(model: ToyNet) -> list[str]:
    seen: list[str] = []
    handle = model.bn1.register_forward_hook(lambda *_: seen.append("bn1"))
    inferred(model, IMAGES)
    handle.remove()
    return seen


def headless(model: ToyNet) -> Any:
    head, model.fc = model.fc, nn.Identity()  # type: ignore[assignment]
    found = inferred(model, IMAGES)
    model.fc = head
    return found.shape


def rewritten(model: ToyNet) -> Any:
    with torch.no_grad():
        model.fc.weight.zero_()
        model.fc.bias.zero_()
    return inferred(model, IMAGES).abs().max()


def attacked(model: ToyNet) -> Any:
    images = IMAGES.clone().requires_grad_()
    model(images).sum().backward()
    return bool(images.grad.abs().sum() > 0)  # type: ignore[union-attr]


def dreaming(model: ToyNet) -> Any:
    model.train()
    found = inferred(model, IMAGES)
    model.eval()
    return found


def named(model: ToyNet) -> Any:
    with torch.inference_mode():
        return model(x=IMAGES)


def in_bf16(model: ToyNet) -> Any:
    with torch.autocast("cpu", torch.bfloat16):
        return inferred(model, IMAGES).dtype


@pytest.mark.parametrize(
    ("do", "why"),
    [
        (hooked, "hooks layers"),
        (headless, "changes the network"),
        (rewritten, "changes the network"),
        (attacked, r"outside of torch.inference_mode\(\)"),
        (dreaming, "training mode"),
        (named, "other arguments"),
        (lambda model: inferred(model, torch.zeros(2, 1, 16, 16)), "inputs unlike"),
        (lambda model: inferred(model.double(), IMAGES.double()), "inputs unlike"),
        (in_bf16, "precision of its own"),
        (lambda model: torch.jit.trace(model, IMAGES, check_trace=False)(IMAGES), "traces"),
    ],
    ids=["hooks", "head", "weights", "gradients", "train", "by name", "size", "double", "autocast", "trace"],
)
@pytest.mark.filterwarnings("ignore")
def test_what_a_metric_does_with_a_network_gives_what_the_network_gives(do: Any, why: str) -> None:
    wanted = do(network())
    found, plainly, fused = given(do, network())
    assert torch.equal(found, wanted) if isinstance(wanted, Tensor) else found == wanted
    assert not fused.called
    assert plainly.passes >= 1
    assert why.replace("\\", "") in plainly.why


def saved_and_loaded(model: ToyNet) -> Any:
    return pickle.loads(pickle.dumps(model))  # noqa: S301 - what was pickled here


@pytest.mark.parametrize("copying", [copy.deepcopy, saved_and_loaded])
def test_a_copy_is_an_ordinary_network(model: ToyNet, copying: Any) -> None:
    copied, _, _ = given(copying, model)
    assert rewritten(copied) == 0
    assert inferred(model, IMAGES).abs().max() > 0


def judged(metric_: Any, name: str = "fp32") -> tuple[Recalibrate, Any]:
    task, *rest = toy_setting()
    return Recalibrate(Bench(dataclasses.replace(task, metric=metric_), *rest, l2, precision=name)), rest[1]


@pytest.mark.parametrize("name", ["fp32", "bf16", "int8"])
def test_a_metric_that_asks_for_the_device_scores_what_top_1_scores(name: str) -> None:
    def moving(model: nn.Module, split: Split) -> float:
        device, right, count = next(model.parameters()).device, 0, 0
        model.eval()
        for images, labels in split.batches(250):
            with torch.no_grad():
                right += int((model(images.to(device)).argmax(1) == labels.to(device)).sum())
            count += len(labels)
        return right / count

    evaluators, (space, _) = zip(*(judged(found, name) for found in (moving, top1)), strict=True)
    policy = space.snap([0.5] * len(space))
    assert metric(evaluators[0], policy) == metric(evaluators[1], policy)
    assert [evaluator.notes for evaluator in evaluators] == [evaluators[1].notes] * 2


def test_the_report_says_what_a_metric_that_hooks_layers_costs() -> None:
    def hooking(model: ToyNet, split: Split) -> float:
        handle = model.bn1.register_forward_hook(lambda *_: None)
        value = top1(model, split)
        handle.remove()
        return value

    evaluator, space = judged(hooking)
    value = metric(evaluator, space.dense())
    one_of_200 = 0.005  # sums come in another order on several threads
    assert value == pytest.approx(metric(judged(top1)[0].careful(), space.dense()), abs=1.01 * one_of_200)
    (note,) = evaluator.notes
    assert note.startswith("The metric 'hooking' hooks layers of the network, so that trials ran networks layer by ")
    assert note.endswith(" s more than fused.")


def test_the_report_says_what_a_metric_of_parts_of_the_network_costs() -> None:
    def parts(model: ToyNet, split: Split) -> float:
        with torch.inference_mode():
            return float(model.conv1(next(split.batches(8))[0]).mean())

    evaluator, space = judged(parts)
    metric(evaluator, space.dense())
    (note,) = evaluator.notes
    assert "'parts' does not call the network as a whole, so that trials ran networks layer by layer for" in note
