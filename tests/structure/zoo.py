"""The networks that tracing, pruning and counting are tested on."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from autoprune.models.resnet import ResNet


def _torchvision(name: str, **settings: object) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision's image extension is not needed
            from torchvision import models
        torch.manual_seed(0)
        return models.get_model(name, weights=None, **settings).eval()

    return make


def _resnet20(option: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        torch.manual_seed(0)
        return ResNet(20, option=option).eval()

    return make


# name -> how to make it, the side of its images here, how many groups it has
ZOO: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "resnet20-A": (_resnet20("A"), 32, 10),
    "resnet20-B": (_resnet20("B"), 32, 12),
    "resnet50": (_torchvision("resnet50"), 32, 37),
    "vgg16_bn": (_torchvision("vgg16_bn"), 32, 15),
    "mobilenet_v2": (_torchvision("mobilenet_v2"), 32, 25),
    "densenet121": (_torchvision("densenet121"), 32, 120),
    "efficientnet_b0": (_torchvision("efficientnet_b0"), 32, 40),
    "resnext50_32x4d": (_torchvision("resnext50_32x4d"), 32, 21),
    "shufflenet_v2_x1_0": (_torchvision("shufflenet_v2_x1_0"), 32, 18),
    "vit_b_16": (_torchvision("vit_b_16", image_size=32, num_classes=10), 32, 12),
}


def example(side: int) -> Tensor:
    """Two images of noise, shape (2, 3, side, side)."""
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
