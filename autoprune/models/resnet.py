"""The ResNets of the CIFAR experiments: three stages of basic blocks, widths 16-32-64. He et al. 2016, section 4.2.

Shortcuts between stages are of option A (every second pixel, channels padded with zeros: no parameters, as published)
or option B (a strided 1x1 convolution). The names of the parameters are those of
akamaster/pytorch_resnet_cifar10, whose public weights load as they are.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

DEPTHS = (20, 32, 44, 56, 110)


class PadShortcut(nn.Module):
    """Option A: every second pixel, `extra` channels of zeros on both sides."""

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.extra = extra

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c + 2 extra, h / 2, w / 2)"""
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra, self.extra))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int, option: Literal["A", "B"]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Sequential()
        if inputs != width and option == "A":
            self.shortcut = PadShortcut((width - inputs) // 2)
        elif inputs != width:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, width, h / stride, w / stride)"""
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out)) + self.shortcut(x)
        return functional.relu(out)


class ResNet(nn.Module):
    """`depth` = 6n + 2 layers, for images of shape (n, channels, 28-32, 28-32). Returns logits, shape (n, classes)."""

    def __init__(
        self, depth: int = 20, *, channels: int = 3, classes: int = 10, option: Literal["A", "B"] = "A"
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        count = (depth - 2) // 6
        self.layer1 = _stage(16, 16, count, 1, option)
        self.layer2 = _stage(16, 32, count, 2, option)
        self.layer3 = _stage(32, 64, count, 2, option)
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Images -> logits."""
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        logits: Tensor = self.linear(out.mean((2, 3)))
        return logits


def _stage(inputs: int, width: int, count: int, stride: int, option: Literal["A", "B"]) -> nn.Sequential:
    first = BasicBlock(inputs, width, stride, option)
    return nn.Sequential(first, *(BasicBlock(width, width, 1, option) for _ in range(count - 1)))
