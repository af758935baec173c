"""Classifiers, segmentation, video and optical flow of torchvision, as they come."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from torch import nn

from autoprune.models.resnet import ResNet
from tests.zoo.case import Network, images, noise


def _make(name: str, **settings: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision's image extension is not needed
            from torchvision import models
        if name.startswith(("googlenet", "inception")):
            settings.setdefault("init_weights", False)
        return models.get_model(name, weights=None, **settings)

    return make


def _classifier(name: str, side: int = 64, other: int = 0, *, light: bool = False, **settings: Any) -> Network:
    """`other` is the side of the other images; 0 for as large ones, where the network takes no others."""
    given = _make(name, num_classes=10, **settings)
    return Network(f"torchvision/{name}", given, images(side), images(other or side, 3), light, "torchvision")


def _segmenter(name: str) -> Network:
    made = _make(name, num_classes=4, weights_backbone=None)
    return Network(f"torchvision/{name}", made, images(64), images(96, 3), needs="torchvision")


def _video(name: str, frames: int = 8, side: int = 32) -> Network:
    example, other = noise(2, 3, frames, side, side), noise(3, 3, frames, side + 16, side)
    return Network(f"torchvision/{name}", _make(name, num_classes=10), example, other, needs="torchvision")


def _raft() -> Network:
    def pair(side: int, count: int) -> Callable[[], Any]:
        return lambda: (images(side, count)(), images(side, count)())

    return Network("torchvision/raft_small", _make("raft_small"), pair(128, 2), pair(160, 3), needs="torchvision")


NETWORKS = (
    Network("autoprune/resnet20-A", lambda: ResNet(20, option="A"), images(32), images(48, 3), light=True),
    Network("autoprune/resnet20-B", lambda: ResNet(20, option="B"), images(32), images(48, 3), light=True),
    _classifier("alexnet", 64, 96),
    _classifier("vgg11", 32, 64),
    _classifier("vgg16_bn", 32, 64),
    _classifier("resnet18", 32, 64, light=True),
    _classifier("resnet50", 32, 64),
    _classifier("wide_resnet50_2", 32, 64),
    _classifier("resnext50_32x4d", 32, 64),
    _classifier("densenet121", 32, 64),
    _classifier("googlenet", 64, 96, aux_logits=False),
    _classifier("inception_v3", 96, 128, aux_logits=False),
    _classifier("mobilenet_v2", 32, 64, light=True),
    _classifier("mobilenet_v3_small", 32, 64, light=True),
    _classifier("mobilenet_v3_large", 32, 64),
    _classifier("mnasnet0_5", 32, 64),
    _classifier("mnasnet1_0", 32, 64),
    _classifier("shufflenet_v2_x0_5", 32, 64),
    _classifier("shufflenet_v2_x1_0", 32, 64, light=True),
    _classifier("squeezenet1_0", 64, 96, light=True),
    _classifier("squeezenet1_1", 64, 96),
    _classifier("efficientnet_b0", 32, 64),
    _classifier("efficientnet_v2_s", 32, 64),
    _classifier("regnet_x_400mf", 32, 64),
    _classifier("regnet_y_400mf", 32, 64),
    _classifier("convnext_tiny", 32, 64),
    _classifier("vit_b_16", 32, image_size=32),
    _classifier("swin_t", 32, 64),
    _classifier("swin_v2_t", 32, 64),
    _segmenter("fcn_resnet50"),
    _segmenter("deeplabv3_resnet50"),
    _segmenter("deeplabv3_mobilenet_v3_large"),
    _segmenter("lraspp_mobilenet_v3_large"),
    _video("r3d_18"),
    _video("mc3_18"),
    _video("r2plus1d_18"),
    _raft(),
)
