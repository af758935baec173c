"""FastestDet: a one-stage detector of a quarter of a million parameters, for images of 352 x 352.

A ShuffleNetV2 (Ma et al. 2018, https://arxiv.org/abs/1807.11164), a neck that brings its three resolutions to one, and
three small heads: is there an object, where is its box, what is it. xuehao.ma 2022, https://github.com/dog-qiuqiu/FastestDet,
whose names of parameters these are, so that its public weights load as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

SIDE = 352  # pixels of an image that the public weights were trained on
STAGES = ((24, 48, 4), (48, 96, 8), (96, 192, 4))  # channels in, channels out, units


class Unit(nn.Module):
    """The second half of the channels goes through three convolutions, the first passes. At stride 1, halves are the
    odd and the even channels; at stride 2, both are computed from all channels."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.branch_main = nn.Sequential(
            *_pointwise(width, width), nn.ReLU(), *_depthwise(width, 3, stride), *_pointwise(width, width), nn.ReLU()
        )
        if stride == 2:
            self.branch_proj = nn.Sequential(*_depthwise(width, 3, stride), *_pointwise(width, width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """(n, 2 width, h, w) -> the same shape; at stride 2 (n, width, h, w) -> (n, 2 width, h / 2, w / 2)"""
        if self.stride == 2:
            return torch.cat([self.branch_proj(x), self.branch_main(x)], 1)
        return torch.cat([x[:, 0::2], self.branch_main(x[:, 1::2])], 1)


class Backbone(nn.Module):
    """The ShuffleNetV2; gives what its three stages compute."""

    def __init__(self) -> None:
        super().__init__()
        self.first_conv = nn.Sequential(nn.Conv2d(3, STAGES[0][0], 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.stage2, self.stage3, self.stage4 = (_stage(*stage) for stage in STAGES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(n, 3, h, w) -> (n, 48, h / 8, w / 8), (n, 96, h / 16, w / 16), (n, 192, h / 32, w / 32)"""
        fine = self.stage2(functional.max_pool2d(self.first_conv(x), 3, 2, 1))
        middle = self.stage3(fine)
        return fine, middle, self.stage4(middle)


class Pyramid(nn.Module):
    """Looks at neighbourhoods of three sizes: one, two and three depthwise convolutions, side by side."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.Conv1x1 = Pointwise(inputs, width)
        self.S1, self.S2, self.S3 = (
            nn.Sequential(*(layer for _ in range(count) for layer in (*_depthwise(width, 5, 1), nn.ReLU())))
            for count in (1, 2, 3)
        )
        self.output = nn.Sequential(*_pointwise(3 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, width, h, w)"""
        x = self.Conv1x1(x)
        return functional.relu(x + self.output(torch.cat([self.S1(x), self.S2(x), self.S3(x)], 1)))


class Pointwise(nn.Module):
    """A 1 x 1 convolution with its normalisation and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1x1 = nn.Sequential(*_pointwise(inputs, outputs), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h, w)"""
        out: Tensor = self.conv1x1(x)
        return out


class Head(nn.Module):
    """A 5 x 5 depthwise and a 1 x 1 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv5x5 = nn.Sequential(*_depthwise(inputs, 5, 1), nn.ReLU(), *_pointwise(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h, w)"""
        out: Tensor = self.conv5x5(x)
        return out


class Heads(nn.Module):
    """What each cell of the image says of the object in it."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.conv1x1 = Pointwise(width, width)
        self.obj_layers, self.reg_layers, self.cls_layers = (Head(width, count) for count in (1, 4, classes))

    def forward(self, x: Tensor) -> Tensor:
        """(n, width, h, w) -> (n, 1 + 4 + classes, h, w)"""
        x = self.conv1x1(x)
        return torch.cat([self.obj_layers(x).sigmoid(), self.reg_layers(x), self.cls_layers(x).softmax(1)], 1)


class FastestDet(nn.Module):
    """The detector, for images (n, 3, h, w) of blue, green and red in [0, 1], h and w multiples of 32.

    Returns (n, 5 + classes, h / 16, w / 16): for each cell the confidence in [0, 1] that it holds an object, four
    numbers of its box (`autoprune.detection.cells` says which), and the probabilities of the classes.
    """

    def __init__(self, classes: int = 80) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.SPP = Pyramid(sum(outputs for _, outputs, _ in STAGES), STAGES[1][1])
        self.detect_head = Heads(STAGES[1][1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images -> cells."""
        fine, middle, coarse = self.backbone(x)
        pooled, grown = functional.avg_pool2d(fine, 3, 2, 1), functional.interpolate(coarse, scale_factor=2.0)
        cells: Tensor = self.detect_head(self.SPP(torch.cat([pooled, middle, grown], 1)))
        return cells


def _stage(inputs: int, outputs: int, count: int) -> nn.Sequential:
    assert outputs == 2 * inputs
    return nn.Sequential(Unit(inputs, 2), *(Unit(inputs, 1) for _ in range(count - 1)))


def _pointwise(inputs: int, outputs: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)


def _depthwise(width: int, kernel: int, stride: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(width, width, kernel, stride, kernel // 2, groups=width, bias=False), nn.BatchNorm2d(width)
