"""Short ways to make what tests are about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import ModelError
from autoprune.evaluators.bench import Bench
from autoprune.files import programs
from autoprune.models import build
from autoprune.protocols import Criterion, Evaluator
from autoprune.structure.trace import trace
from autoprune.task import Task
from autoprune.values.space import Choice, Policy, SearchSpace, levels_of
from autoprune.values.trial import Failure, Outcome, Trial
from tests import ASSETS

REBUILD = "fashion_mnist:resnet20"
NOTHING: Mapping[str, float] = {}
SMALL_SEARCH = f"""
name = "mine"
[task]
use = "{ASSETS / "mine.py"}:make"
[budget]
macs = "60%"
[controller]
use = "random"
[search]
trials = 2
[finetune]
epochs = 0
[report]
random_trials = 1
"""


def group(name: str, of: int, layers: tuple[str, ...] = (), lowest: int = 1, step: int = 1) -> Choice:
    """A choice of channels."""
    return Choice(name, levels_of(of, lowest, step), layers=layers)


def done(
    number: int,
    policy: Policy,
    metric: float = 0.5,
    costs: Mapping[str, float] = NOTHING,
    reward: float | None = None,
    seconds: Mapping[str, float] = NOTHING,
) -> Trial:
    """A trial that succeeded; the reward is the metric unless it is given."""
    return Trial(number, policy, Outcome(metric, (metric if reward is None else reward,), costs), seconds)


def failed(
    number: int,
    policy: Policy,
    error: str = "it failed",
    costs: Mapping[str, float] = NOTHING,
    seconds: Mapping[str, float] = NOTHING,
) -> Trial:
    """A trial that did not."""
    return Trial(number, policy, Failure(error, costs), seconds)


def bench(task: Task, criterion: Criterion, seed: int = 0, **more: object) -> Bench:
    """All that an evaluator is handed, of a network that is traced here."""
    found = trace(task.model, task.example)
    space = SearchSpace(task.name, found.choices, found.ops, found.parameters)
    return Bench(task, found, space, criterion, seed, **more)  # type: ignore[arg-type]


def metric(evaluator: Evaluator, policy: Policy) -> float:
    """What a search sees of a policy."""
    return evaluator.score(evaluator.recover(evaluator.realise(policy))).metric


def thinner(seed: int = 0) -> nn.Module:
    """A ResNet-20 whose inner widths are half, cut by hand."""
    torch.manual_seed(seed)
    model = build(REBUILD)
    for name, block in model.named_modules():
        if not hasattr(block, "conv1") or not name:
            continue
        width = block.conv1.out_channels // 2
        block.conv1.out_channels = block.bn1.num_features = block.conv2.in_channels = width
        block.conv1.weight = nn.Parameter(block.conv1.weight[:width].detach().clone())
        block.conv2.weight = nn.Parameter(block.conv2.weight[:, :width].detach().clone())
        block.bn1.weight = nn.Parameter(torch.rand(width) + 0.5)
        block.bn1.bias = nn.Parameter(torch.randn(width))
        block.bn1.running_mean = torch.randn(width)
        block.bn1.running_var = torch.rand(width) + 0.5
    return model.eval()


def no_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches write weights alone from now on, which takes a second instead of half a minute."""

    def refused(model: nn.Module, path: object, images: object) -> object:
        raise ModelError(f"{path} is not written by this test")

    monkeypatch.setattr(programs, "export_program", refused)
    monkeypatch.setattr(programs, "export_onnx", refused)


class Siamese(nn.Module):
    """One network that looks at two images, and how far apart it finds them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.head = nn.Linear(12, 8)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Any]:
        sides = self.head(self.body(left)), self.head(self.body(right))
        return {"distance": (sides[0] - sides[1]).pow(2).sum(1), "sides": sides}


class Recommender(nn.Module):
    """Scores a user, two items, and some numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(10, 6), nn.Embedding(10, 6)
        self.mlp = nn.Sequential(nn.Linear(22, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, ids: Tensor, numbers: Tensor) -> Tensor:
        rows = self.users(ids[:, 0]), self.items(ids[:, 1]), self.items(ids[:, 2]), numbers
        return self.mlp(torch.cat(rows, 1)).squeeze(1)  # type: ignore[no-any-return]


def small_bert(**more: Any) -> tuple[nn.Module, dict[str, Tensor]]:
    """A BERT of two layers for three classes, and token ids with a mask of which some are padding."""
    transformers = pytest.importorskip("transformers", reason="needs transformers, of the extra `models`")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = transformers.BertConfig(vocab_size=40, max_position_embeddings=32, num_labels=3, **sizes, **more)
    ids, mask = torch.randint(0, 40, (6, 12)), torch.ones(6, 12, dtype=torch.long)
    mask[1::2, 7:] = 0
    return transformers.BertForSequenceClassification(config).eval(), {"input_ids": ids, "attention_mask": mask}
