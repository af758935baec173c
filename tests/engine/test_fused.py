"""Fused networks compute what the networks compute: in every precision, pruned or not, whatever the shortcuts."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune.criteria import l2
from autoprune.engine import precision
from autoprune.engine.chains import Activation, Code, Unfusable, read
from autoprune.engine.fused import Fused, Fuser
from autoprune.engine.int8 import decoded, encoded, pooled
from autoprune.errors import TrialFailed
from autoprune.evaluators.bench import Bench
from autoprune.evaluators.recalibrate import Recalibrate
from autoprune.evaluators.recovery.batchnorm import recalibrate
from autoprune.models.resnet import ResNet
from autoprune.structure.prune import prune
from autoprune.structure.trace import trace
from autoprune.task import Split, top1
from autoprune.testing.evaluators import ToyNet, state_of, toy_setting
from tests.making import metric
from tests.zoo import NETWORKS, Case

IMAGES = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def settled(model: nn.Module, inputs: Tensor = IMAGES) -> nn.Module:
    """`model` with random weights in general position and the statistics of `inputs`."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() < 2:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    recalibrate(model, [(inputs, inputs)])
    return model


def error(model: nn.Module, name: str, inputs: Tensor = IMAGES, of: nn.Module | None = None) -> float:
    """Mean difference between `model` made ready and as it is, against the spread of its outputs."""
    ready = Fuser.of(of or model, inputs)(model, name)
    with torch.inference_mode():
        wanted = model(inputs)
        with precision.running(name, inputs.device):
            found = ready(inputs).float()
    assert found.shape == wanted.shape
    assert ready.finite
    return float((wanted - found).abs().mean() / wanted.std())


class Toy(nn.Module):
    """A stem, and whatever is built of it."""

    def __init__(self, body: Callable[[Toy, Tensor], Tensor]) -> None:
        super().__init__()
        self.body = body
        self.stem, self.norm = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.conv, self.inner = nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 8, 1)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.silu, self.relu6 = nn.SiLU(), nn.ReLU6()
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.body(self, self.norm(self.stem(x))).mean((2, 3)))
        return logits


def summed_and_read_again(net: Toy, x: Tensor) -> Tensor:
    x = functional.relu(x)
    y = functional.relu(net.inner(net.conv(x)) + x)
    return net.last(y) * 2 + x  # x is needed after the sum


def view_read_after_the_sum(net: Toy, x: Tensor) -> Tensor:
    x = functional.relu(x)
    view = x[:, :, ::2, ::2]
    y = functional.relu(net.inner(net.conv(x)) + x)
    return net.last(y)[:, :, ::2, ::2] + view


def summed_with_its_own_input(net: Toy, x: Tensor) -> Tensor:
    x = functional.relu(x)
    return functional.relu(net.inner(net.conv(x)) + x)  # nobody else reads x


def branches(net: Toy, x: Tensor) -> Tensor:
    x = functional.relu(x)
    return functional.relu(net.inner(net.conv(x)) + net.last(x))


def signed(net: Toy, x: Tensor) -> Tensor:
    return net.relu6(net.inner(net.conv(net.last(x))))


def padded(net: Toy, x: Tensor) -> Tensor:
    half = functional.relu(x)[:, 2:6, ::2, ::2]
    y = net.pool(functional.relu(net.inner(net.conv(functional.relu(x)))))
    return net.last(functional.relu(y + functional.pad(half, (0, 0, 0, 0, 2, 2))))


def smooth(net: Toy, x: Tensor) -> Tensor:
    return net.last(net.silu(net.inner(net.conv(net.silu(x)))))


def called_twice(net: Toy, x: Tensor) -> Tensor:
    return functional.relu(net.inner(net.conv(functional.relu(net.conv(functional.relu(x))))))


def concatenated(net: Toy, x: Tensor) -> Tensor:
    x = functional.relu(x)
    left, right = net.conv(x).chunk(2, 1)
    return net.last(torch.cat([left, functional.relu(right)], 1))


BODIES = [
    summed_and_read_again, summed_with_its_own_input, view_read_after_the_sum,
    branches, signed, padded, smooth, called_twice, concatenated,
]  # fmt: skip


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
@pytest.mark.parametrize(("name", "most"), [("fp32", 1e-5), ("bf16", 0.02), ("int8", 0.05)])
def test_computes_what_the_network_computes(body: Callable[[Toy, Tensor], Tensor], name: str, most: float) -> None:
    torch.manual_seed(0)
    assert error(settled(Toy(body)), name) < most


def preactivated(net: Toy, x: Tensor) -> Tensor:
    y = net.conv(x)
    return y + functional.relu_(x)  # in place, and after the convolution has read it


def test_a_network_that_fusing_would_change_is_refused() -> None:
    with pytest.raises(Unfusable, match="something else"):
        Fuser.of(settled(Toy(preactivated)), IMAGES)


def depends_on_values(net: Toy, x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Toy(depends_on_values), "cannot be read"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3072, 4)), "no convolution"),
    ],
)
def test_a_network_that_cannot_be_read_says_why(model: nn.Module, reason: str) -> None:
    with pytest.raises(Unfusable, match=reason):
        Fuser.of(model.eval(), IMAGES)


@pytest.mark.parametrize("option", ["A", "B"])
@pytest.mark.parametrize(("name", "most"), [("fp32", 1e-5), ("bf16", 0.03), ("int8", 0.08)])
def test_pruned_copies_are_made_ready_by_what_the_dense_network_said(option: str, name: str, most: float) -> None:
    dense = settled(ResNet(20, option=option))  # type: ignore[arg-type]
    traced = trace(dense, IMAGES[:1])
    generator = torch.Generator().manual_seed(3)
    units = [torch.randperm(g.dense, generator=generator)[: g.dense * 2 // 3].sort()[0].numpy() for g in traced.choices]
    pruned = prune(dense, traced, units)
    recalibrate(pruned, [(IMAGES, IMAGES)])
    assert error(pruned, name, of=dense) < most


def test_everything_of_a_residual_network_is_fused() -> None:
    chains = read(settled(ResNet(20)), IMAGES).chains.values()
    assert len(chains) == 19
    assert all(chain.norm is not None and chain.activation == Activation("relu") for chain in chains)
    added = [chain for chain in chains if chain.other is not None]
    assert len(added) == 9
    assert all(chain.spoils for chain in added if "relu" in str(chain.other))


def test_only_looks() -> None:
    model = settled(ResNet(20)).train()
    before = state_of(model)
    Fuser.of(model, IMAGES)(model, "int8")(IMAGES)
    assert state_of(model) == before


def test_weights_are_read_anew() -> None:
    model = settled(ResNet(20))
    fuser = Fuser.of(model, IMAGES)
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.linear.weight.mul_(-1)  # type: ignore[operator]
        changed.layer1[0].conv1.weight.mul_(0.5)  # type: ignore[index, union-attr]
    with torch.inference_mode():
        torch.testing.assert_close(fuser(changed, "fp32")(IMAGES), changed(IMAGES), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "most"), [("fp32", 1e-5), ("bf16", 0.03), ("int8", 0.08)])
def test_batchnorms_that_turn_channels_round_or_silence_them(name: str, most: float) -> None:
    model = settled(ResNet(20))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.weight is not None
                module.weight[::3] *= -1
                module.weight[1::3] = 0
    recalibrate(model, [(IMAGES, IMAGES)])
    assert error(model, name) < most


@pytest.mark.parametrize("name", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_weight_that_is_not_finite_is_named(value: str, name: str) -> None:
    model = settled(ResNet(20))
    fuser = Fuser.of(model, IMAGES)
    with torch.no_grad():
        model.layer2[1].conv2.weight[3, 2, 1, 1] = float(value)  # type: ignore[index, union-attr]
    with pytest.raises(TrialFailed, match=r"layer2\.1\.conv2 are not finite"):
        fuser(model, name)


@pytest.mark.parametrize("span", [(0.0, 3.0), (-1.0, 3.0), (-2.0, -1.0), (0.0, 0.0)])
def test_codes_keep_zero_and_err_by_half_a_step(span: tuple[float, float]) -> None:
    code = Code.of(span)
    values = torch.linspace(*span, 100)
    assert (decoded(encoded(values, code), code) - values).abs().max() <= code.scale * 0.51
    assert decoded(encoded(torch.zeros(1), code), code) == 0
    assert encoded(torch.tensor([-1e9, 1e9]), code).tolist() in ([0, 255], [0, code.zero + round(1e9 / code.scale)])


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d((3, 2), (1, 2), (1, 0))])
def test_codes_are_pooled_like_numbers(pool: nn.MaxPool2d) -> None:
    codes = torch.randint(0, 256, (2, 5, 9, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert torch.equal(pooled(codes, pool).float(), pool(codes.float()))


class Unreadable(ToyNet):
    """Looks at values on the way, which a graph cannot say."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.abs().sum() >= 0 else x


def test_what_cannot_be_fused_is_scored_as_it_is_and_said() -> None:
    task, *rest = toy_setting()
    policy = rest[1].snap([0.4] * len(rest[1]))
    unreadable = Unreadable().eval()
    unreadable.load_state_dict(task.model.state_dict())
    fused = Recalibrate(Bench(task, *rest, l2))
    plain = Recalibrate(Bench(dataclasses.replace(task, model=unreadable), *rest, l2))
    scores = [metric(made, policy) for made in (plain, fused)]
    assert scores[0] == pytest.approx(scores[1], abs=0.03)  # statistics are of all places, and of one of four
    assert "layer by layer: its graph cannot be read" in plain.notes[0]
    assert not fused.notes


@pytest.mark.parametrize("name", ["fp32", "bf16", "int8"])
def test_evaluators_score_fused_networks(name: str) -> None:
    task, *rest = toy_setting()
    seen, forward = list[str](), Fused.forward

    def spying(model: nn.Module, split: Split) -> float:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Fused, "forward", lambda it, x: seen.append("fused") or forward(it, x))
            return top1(model, split)

    evaluator = Recalibrate(Bench(dataclasses.replace(task, metric=spying), *rest, l2, precision=name))
    value = metric(evaluator, rest[1].dense())
    assert seen == ["fused"]
    assert abs(value - metric(evaluator.careful(), rest[1].dense())) <= 0.01


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "densenet121", "efficientnet_b0", "shufflenet_v2_x1_0"])
def test_the_zoo_is_read(name: str) -> None:
    inputs = IMAGES[:8, :, :32, :32]
    model = settled(Case(NETWORKS[f"torchvision/{name}"]).model, inputs)
    assert error(model, "fp32", inputs) < 3e-4
