"""What benchmarks compare on: trained networks where there are any, the usual large ones with random weights elsewhere.

A network with random weights has no quality to lose. Its labels are what it says itself, so that its metric is how
often a pruned network agrees with the dense one. That is not much more often than by chance: such a network shows how
long something takes, and little else.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from autoprune.task import Images, Task
from autoprune.tasks.cifar10 import cifar10
from autoprune.tasks.fashion_mnist import fashion_mnist

SCORED, JUDGED, POOL = 1_000, 4_000, 1_024  # images
_RANDOM = "random weights, top-1 is agreement with the dense network and only the seconds mean something"
_RESIDUAL = ("conv1",)  # the channels that padded shortcuts add to: Torch-Pruning couples the wrong ones


@dataclass(frozen=True)
class Case:
    """A network to compare on.

    Attributes:
        task: its holdout are the images that score, its training split those that calibrate, not augmented.
        policies: how many are enough.
        about: where network and images come from.
        whole: groups that Torch-Pruning cannot prune as a policy says.
        training: images to finetune on, augmented; None where finetuning means nothing.
        judged: images that no score has seen, for finetuned networks; None likewise.
    """

    task: Task
    policies: int
    about: str
    whole: tuple[str, ...] = ()
    training: Images | None = None
    judged: Images | None = None


def resnet(model: str, data: str) -> Case:
    """A ResNet for CIFAR-10. The images after those that score judge what was finetuned."""
    task = cifar10(model=model, data=data, holdout=SCORED + JUDGED)
    return _trained(task, "CIFAR-10, public weights that were trained on the holdout, too")


def fashion(data: str) -> Case:
    """The network and the images in the package; needs no `data`."""
    return _trained(fashion_mnist(), "Fashion-MNIST, images and weights of the package")


def vgg(data: str) -> Case:
    """VGG-16 with BatchNorm and one linear layer, the usual form for CIFAR. Simonyan and Zisserman 2015."""
    layers: list[nn.Module] = []
    inputs = 3
    for stage in ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3):
        for width in stage:
            conv = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            inputs = width
        layers.append(nn.MaxPool2d(2))
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs, 10))
    return Case(_untrained(net, "vgg16", data, 32), 12, f"{_RANDOM}; CIFAR-10 images")


def mobilenet(data: str) -> Case:
    """torchvision's MobileNetV2 with ten classes, at its full size of image."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's image extension is not needed
        try:
            from torchvision.models import mobilenet_v2
        except ImportError:
            raise SystemExit("mobilenet_v2 comes from torchvision: pip install --no-deps torchvision") from None
    task = _untrained(mobilenet_v2(num_classes=10), "mobilenet_v2", data, 224)
    return Case(task, 5, f"{_RANDOM}; CIFAR-10 images enlarged to 224 x 224")


NETWORKS: Mapping[str, Callable[[str], Case]] = {
    "resnet20": lambda data: resnet("resnet20", data),
    "resnet56": lambda data: resnet("resnet56", data),
    "vgg16": vgg,
    "mobilenet_v2": mobilenet,
    "fashion": fashion,
}


def last_linear(model: nn.Module) -> nn.Linear:
    """The classifier."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


def _trained(task: Task, about: str) -> Case:
    training, held = task.train, task.holdout
    assert isinstance(training, Images)
    assert isinstance(held, Images)
    judged = replace(held, images=held.images[SCORED:], labels=held.labels[SCORED:])
    pool = replace(training.head(POOL), pad=0, flip=False)
    return Case(replace(task, train=pool, holdout=held.head(SCORED)), 24, about, _RESIDUAL, training, judged)


def _untrained(net: nn.Module, name: str, data: str, side: int) -> Task:
    """`net` with random weights in general position; the labels are what it says. The seed is the caller's."""
    source = cifar10(model="resnet20", data=data)
    pool, scored = _enlarged(source.train, POOL, side), _enlarged(source.holdout, SCORED, side)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")  # makes little of depthwise weights in a norm of all
    update_bn(pool.batches(128), net.eval())
    _spread_classes(last_linear(net), _outputs(net, pool))
    train, holdout = (replace(split, labels=_outputs(net, split).argmax(1)) for split in (pool, scored))
    return Task(net, next(holdout.batches(1))[0], train=train, holdout=holdout, test=holdout, name=name)


def _enlarged(split: Any, count: int, side: int) -> Images:
    """The first `count` images, `side` pixels wide and high, one byte a pixel, not augmented in training."""
    images = split.images[:count]
    if images.shape[-1] != side:
        parts = (nn.functional.interpolate(p.float(), size=side, mode="bilinear") for p in images.split(128))
        images = torch.cat([part.round_().to(torch.uint8) for part in parts])
    return replace(split, images=images, labels=split.labels[:count], pad=0, flip=False)


def _spread_classes(last: nn.Linear, logits: Tensor) -> None:
    """Standardise the logits, shape (n, classes): random weights let one class win nearly everywhere."""
    mean, std = logits.mean(0), logits.std(0)
    with torch.no_grad():
        last.weight /= std.unsqueeze(1)
        last.bias.copy_((last.bias - mean) / std)


def _outputs(net: nn.Module, split: Images) -> Tensor:
    with torch.no_grad():
        return torch.cat([net(inputs) for inputs, _ in split.batches(128)])
