"""Small networks that name a spoken word: a DS-CNN, and recurrent ones. Zhang et al. 2017, https://arxiv.org/abs/1711.07128.

All take log-mel features (n, frames, bands) and return logits (n, classes). The DS-CNN is that paper's small one, 64
channels throughout, on more bands than its ten cepstral coefficients, so that it is not all overhead on a processor.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

BANDS, CLASSES = 40, 10


class Separable(nn.Module):
    """A 3x3 depthwise and a 1x1 convolution, each with BatchNorm and ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, 1, 1, groups=width, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.pointwise = nn.Conv2d(width, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, width, h, w) -> (n, width, h, w)"""
        x = functional.relu(self.bn1(self.depthwise(x)))
        return functional.relu(self.bn2(self.pointwise(x)))


class DSCNN(nn.Module):
    """A 10x4 convolution with stride 2, `blocks` separable ones, the mean of all places, a linear layer."""

    def __init__(self, width: int = 64, blocks: int = 4, *, classes: int = CLASSES) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, (10, 4), 2, (5, 1), bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(*(Separable(width) for _ in range(blocks)))
        self.linear = nn.Linear(width, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Features (n, frames, bands) -> logits (n, classes)."""
        x = functional.relu(self.bn(self.conv(features.unsqueeze(1))))
        logits: Tensor = self.linear(self.blocks(x).mean((2, 3)))
        return logits


class Recurrent(nn.Module):
    """Layers of GRUs or LSTMs, the mean of the last one's outputs over time, a linear layer."""

    def __init__(
        self, cell: Literal["gru", "lstm"], width: int = 128, layers: int = 2, *, bands: int = BANDS,
        classes: int = CLASSES,
    ) -> None:  # fmt: skip
        super().__init__()
        layer = {"gru": nn.GRU, "lstm": nn.LSTM}[cell]
        self.rnn = layer(bands, width, layers, batch_first=True)
        self.linear = nn.Linear(width, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Features (n, frames, bands) -> logits (n, classes)."""
        logits: Tensor = self.linear(self.rnn(features)[0].mean(1))
        return logits
