"""The few architectures that the built-in tasks need, and the table by which a saved network finds its own again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from torch import nn

from autoprune.errors import ModelError
from autoprune.models.fastestdet import FastestDet
from autoprune.models.resnet import DEPTHS, ResNet
from autoprune.models.speech import DSCNN, Recurrent

FACTORIES: Mapping[str, Callable[[], nn.Module]] = {
    "fashion_mnist:resnet20": partial(ResNet, 20, channels=1),
    **{f"cifar10:resnet{depth}": partial(ResNet, depth) for depth in DEPTHS},
    "spoken_digits:ds-cnn": DSCNN,
    "spoken_digits:gru": partial(Recurrent, "gru"),
    "spoken_digits:lstm": partial(Recurrent, "lstm"),
    "bccd:fastestdet": partial(FastestDet, 3),
}


def build(rebuild: str) -> nn.Module:
    """The untrained dense network that `rebuild` ("task:model") names. Raises ModelError where there is none."""
    if rebuild not in FACTORIES:
        raise ModelError(f"no built-in network is called {rebuild!r}; there are {', '.join(FACTORIES)}")
    return FACTORIES[rebuild]()
