"""Transformers from search to reload: the exported networks, with fewer heads, are the network that was found."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import autoprune
from autoprune.task import Task

CLASSES, SIDE = 4, 32


def vit() -> nn.Module:
    timm = pytest.importorskip("timm")
    sizes = {"img_size": SIDE, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": CLASSES}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: nn.Module = timm.create_model("vit_tiny_patch16_224", **sizes)
    return made


class Encoder(nn.Module):
    """torch's own encoder over rows of pixels."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(24, 4, 48, batch_first=True)
        self.rows, self.encoder = nn.Linear(3 * SIDE, 24), nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(self.rows(images.transpose(1, 2).flatten(2))).mean(1))


NETWORKS: dict[str, Callable[[], nn.Module]] = {"timm's ViT": vit, "torch's encoder": Encoder}


def task(make: Callable[[], nn.Module]) -> Task:
    torch.manual_seed(0)
    model = make().eval()
    images = torch.randn(80, 3, SIDE, SIDE)
    with torch.no_grad():
        samples = list(zip(images, model(images).argmax(1), strict=True))
    return Task(model, images[:1], samples[:40], samples[40:60], samples[60:], name="mine")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NETWORKS)
def test_search_export_and_reload(name: str, tmp_path: Path) -> None:
    tables: dict[str, Any] = {
        "evaluator": {"use": "reconstruct", "images": 32, "batch": 16, "recalibrate": 0},
        "finetune": {"epochs": 1, "batch": 8},
        "report": {"random_trials": 1, "fidelity": 0},
    }
    asked = task(NETWORKS[name])
    found = autoprune.search(asked, {"macs": "40%"}, "random", 3, 0, tmp_path, **tables)
    heads = [place for place, choice in enumerate(found.report.choices) if choice.kind == "head"]
    assert any(found.policy.levels[place] < found.report.choices[place].of for place in heads)
    assert {one.file for one in found.report.exports} == {"model.safetensors", "model.pt2", "model.onnx"}
    again = autoprune.load(found.directory, asked.model)
    assert torch.equal(again(asked.example), found.model(asked.example))
    program = torch.export.load(found.directory / "model.pt2").module()
    assert torch.allclose(program(asked.example), found.model(asked.example), atol=1e-5)
