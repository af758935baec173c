"""Small networks of our own, each with one thing that is unlike a convolutional classifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from autoprune.inputs import Inputs
from tests.zoo.case import Network, images, noise, tokens


class Read(nn.Module):
    """A recurrent layer whose last output a classifier reads."""

    def __init__(self, kind: type[nn.RNNBase], **settings: Any) -> None:
        super().__init__()
        self.rnn = kind(8, 16, batch_first=True, **settings)
        width = (settings.get("proj_size") or 16) * (2 if settings.get("bidirectional") else 1)
        self.head = nn.Sequential(nn.Linear(width, 12), nn.ReLU(), nn.Linear(12, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


class Cells(nn.Module):
    """A cell, called step by step."""

    def __init__(self, kind: type[nn.RNNCellBase]) -> None:
        super().__init__()
        self.cell, self.head = kind(8, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


class Convolved(nn.Module):
    """A convolutional network whose first layer is made by `first`."""

    def __init__(self, first: Callable[[nn.Conv2d], nn.Module]) -> None:
        super().__init__()
        self.stem = first(nn.Conv2d(3, 12, 3, padding=1))
        self.middle, self.head = nn.Conv2d(12, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.middle(F.relu(self.stem(x)))).mean((2, 3)))


def _masked(conv: nn.Conv2d) -> nn.Module:
    return prune.random_unstructured(conv, "weight", 0.3)


class Rooted(nn.Module):
    """Parameters of the network itself, outside of any layer."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(16, 8))
        self.bias = nn.Parameter(torch.randn(16))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(F.linear(x, self.matrix, self.bias)))


class Gated(nn.Module):
    """A gated linear unit in halves."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 32), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.glu(self.up(x), dim=-1))


class Normed(nn.Module):
    """RMSNorm over a width that a layer makes."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(8, 24), nn.RMSNorm(24), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.norm(self.up(x))))


class Shuffled(nn.Module):
    """Super-resolution by pixel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.up, self.out = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 24, 3, 1, 1), nn.Conv2d(6, 3, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.pixel_shuffle(self.up(F.relu(self.body(x))), 2))


class Unflattened(nn.Module):
    """A generator: a linear layer becomes a small image, transposed convolutions a larger one."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Linear(8, 16 * 4 * 4)
        self.grow, self.out = nn.ConvTranspose2d(16, 12, 4, 2, 1), nn.ConvTranspose2d(12, 3, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        start = F.relu(self.start(x)).view(len(x), -1, 4, 4)
        return self.out(F.relu(self.grow(start)))


class Experts(nn.Module):
    """A mixture of experts, two of them by their gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.out = nn.Linear(8, 3), nn.Linear(8, 4)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.gate(x).softmax(-1)
        mixed = torch.stack([expert(x) for expert in self.experts], 1)  # (n, experts, 8)
        return self.out((weights.unsqueeze(-1) * mixed).sum(1))


class Siamese(nn.Module):
    """Two images and the distance of their embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 12, 3, 2), nn.ReLU(), nn.Conv2d(12, 8, 3, 2), nn.AdaptiveAvgPool2d(1),
                                 nn.Flatten(), nn.Linear(8, 6))  # fmt: skip

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return F.cosine_similarity(self.net(left), self.net(right), dim=-1)


class Recommender(nn.Module):
    """Ids and numbers by name."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(50, 12), nn.Embedding(60, 12)
        self.tower = nn.Sequential(nn.Linear(12 + 12 + 4, 24), nn.ReLU(), nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, user: Tensor, item: Tensor, numbers: Tensor) -> Tensor:
        return self.tower(torch.cat([self.user(user), self.item(item), numbers], -1)).squeeze(-1)


class Reshaped(nn.Module):
    """LeNet with a reshape to a number that was written down."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.three, self.four = nn.Linear(16 * 4 * 4, 24), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.one(x)), 2)
        x = F.max_pool2d(F.relu(self.two(x)), 2).view(-1, 16 * 4 * 4)
        return self.four(F.relu(self.three(x)))


class UNet(nn.Module):
    """Down, up, and a skip that is concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.up, self.out = nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(16, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.relu(self.down(x))
        up = self.up(F.relu(self.deep(F.max_pool2d(skip, 2))))
        return self.out(torch.cat([skip, F.relu(up)], 1))


class Auxiliary(nn.Module):
    """A head that exists in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.more = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 8, 3)
        self.head, self.aux = nn.Linear(8, 4), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.body(x))
        out = self.head(F.relu(self.more(x)).mean((2, 3)))
        return (out, self.aux(x.mean((2, 3)))) if self.training else out


class Tied(nn.Module):
    """An embedding that is read again as the output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.up, self.down = nn.Embedding(96, 16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, ids: Tensor) -> Tensor:
        return F.linear(self.down(F.gelu(self.up(self.words(ids)))), self.words.weight)


class Positions(nn.Module):
    """A transformer's encoder with learned positions on the root."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.place = nn.Embedding(96, 16), nn.Parameter(torch.randn(1, 64, 16))
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dropout=0.0)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.encoder(self.words(ids) + self.place[:, : ids.shape[1]]).mean(1))


class Token(nn.Module):
    """A learned token that is written out for every sample and handed to a layer as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 8))
        self.up, self.head = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.up(self.token.expand(len(x), -1)) + self.up(x)))


class Unused(nn.Module):
    """A layer that is never run."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.spare = nn.Linear(8, 16), nn.Linear(16, 4), nn.Linear(16, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.body(x)))


class Bilinear(nn.Module):
    """A product of two embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(8, 12), nn.Linear(8, 10)
        self.mix, self.head = nn.Bilinear(12, 10, 6), nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.mix(F.relu(self.left(x)), F.relu(self.right(x)))))


def _plain(*layers: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*layers)


def _two(*shape: int) -> tuple[Callable[[], Inputs], Callable[[], Inputs]]:
    return noise(2, *shape), noise(3, *shape)


def _odd(
    name: str, make: Callable[[], nn.Module], example: Callable[[], Inputs], other: Callable[[], Inputs]
) -> Network:
    return Network(f"oddities/{name}", make, example, other, light=True)


def _read(name: str, kind: type[nn.RNNBase], **settings: Any) -> Network:
    return _odd(name, lambda: Read(kind, **settings), noise(2, 5, 8), noise(3, 7, 8))


def _first(name: str, first: Callable[[nn.Conv2d], nn.Module]) -> Network:
    return _odd(name, lambda: Convolved(first), images(12), images(16, 3))


def _pair(side: int, count: int) -> Callable[[], Inputs]:
    return lambda: (images(side, count)(), images(side, count)())


def _rated(count: int) -> Callable[[], Inputs]:
    return lambda: {
        "user": tokens(1, count, 50)[:, 0],
        "item": tokens(1, count, 60)[:, 0],
        "numbers": noise(count, 4)(),
    }


def _shared() -> nn.Module:
    layer = nn.Linear(16, 16)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(16, 3))


NETWORKS = (
    _read("lstm", nn.LSTM),
    _read("lstm-stacked-bidirectional", nn.LSTM, num_layers=2, bidirectional=True),
    _read("lstm-projected", nn.LSTM, proj_size=6),
    _read("gru", nn.GRU),
    _read("gru-bidirectional", nn.GRU, bidirectional=True),
    _read("rnn", nn.RNN),
    _odd("lstm-cell", lambda: Cells(nn.LSTMCell), noise(2, 5, 8), noise(3, 7, 8)),
    _odd("gru-cell", lambda: Cells(nn.GRUCell), noise(2, 5, 8), noise(3, 7, 8)),
    _odd("rnn-cell", lambda: Cells(nn.RNNCell), noise(2, 5, 8), noise(3, 7, 8)),
    _first("weight-norm-old", nn.utils.weight_norm),
    _first("weight-norm", parametrizations.weight_norm),
    _first("spectral-norm-old", nn.utils.spectral_norm),
    _first("spectral-norm", parametrizations.spectral_norm),
    _first("masked", _masked),
    _odd("root-parameters", Rooted, *_two(8)),
    _odd("glu", Gated, *_two(8)),
    _odd("rmsnorm", Normed, *_two(8)),
    _odd("pixel-shuffle", Shuffled, images(8), images(12, 3)),
    _odd("unflatten-transposed", Unflattened, *_two(8)),
    _odd("experts", Experts, *_two(8)),
    _odd("siamese", Siamese, _pair(16, 2), _pair(20, 3)),
    _odd("recommender", Recommender, _rated(2), _rated(3)),
    _odd("hardcoded-view", Reshaped, images(28, 2, 1), images(28, 3, 1)),
    _odd("unet", UNet, images(8), images(12, 3)),
    _odd("auxiliary-head", Auxiliary, images(8), images(12, 3)),
    _odd("tied-embedding", Tied, lambda: tokens(6), lambda: tokens(9, 3)),
    _odd("transformer-encoder", Positions, lambda: tokens(6), lambda: tokens(9, 3)),
    _odd("learned-token", Token, *_two(8)),
    _odd("unused-layer", Unused, *_two(8)),
    _odd("shared-layer", _shared, *_two(8)),
    _odd(
        "conv1d",
        _plain(nn.Conv1d(4, 12, 5, 2), nn.BatchNorm1d(12), nn.ReLU(), nn.Conv1d(12, 8, 3), nn.AdaptiveAvgPool1d(1),
               nn.Flatten(), nn.Linear(8, 3)),
        noise(2, 4, 40), noise(3, 4, 56),
    ),
    _odd(
        "conv3d",
        _plain(nn.Conv3d(2, 8, 3), nn.BatchNorm3d(8), nn.ReLU(), nn.Conv3d(8, 6, 3), nn.AdaptiveAvgPool3d(1),
               nn.Flatten(), nn.Linear(6, 3)),
        noise(2, 2, 8, 8, 8), noise(3, 2, 8, 10, 8),
    ),
    _odd(
        "instance-and-group-norm",
        _plain(nn.Conv2d(3, 12, 3), nn.InstanceNorm2d(12, affine=True), nn.ReLU(), nn.Conv2d(12, 16, 3),
               nn.GroupNorm(4, 16), nn.PReLU(16), nn.Conv2d(16, 4, 3)),
        images(12), images(16, 3),
    ),
    _odd(
        "local-response-norm",
        _plain(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.LocalResponseNorm(3), nn.Conv2d(12, 8, 3), nn.ReLU(),
               nn.Conv2d(8, 4, 3)),
        images(12), images(16, 3),
    ),
    _odd("bilinear", Bilinear, *_two(8)),
)  # fmt: skip
