"""What benchmarks compare on: public trained networks where there are any; the large ones are trained briefly here.

A network with random weights would show how long something takes, and little else: it has no quality to lose, and low
precision disturbs it more than a trained one. A minute of training makes a poor network with something to lose.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import update_bn

from autoprune.task import Images, Task
from autoprune.tasks.cifar10 import cifar10
from autoprune.tasks.fashion_mnist import fashion_mnist
from autoprune.train import Recipe, train

SCORED, JUDGED, POOL = 1_000, 4_000, 1_024  # images
_BRIEFLY = Recipe(150, batch=128, lr=0.05, warmup=0.2, precision="bf16")
_LONGER = replace(_BRIEFLY, steps=600)
_RESIDUAL = ("conv1",)  # the channels that padded shortcuts add to: Torch-Pruning couples the wrong ones


@dataclass(frozen=True)
class Case:
    """A network to compare on.

    Attributes:
        task: its holdout are the images that score, its training split those that calibrate, not augmented.
        others: as many images that may calibrate instead.
        policies: how many are enough.
        about: where network and images come from.
        whole: groups that Torch-Pruning cannot prune as a policy says.
        training: images to finetune on, augmented; None where finetuning would take too long.
        judged: images that no score has seen, for finetuned networks; None likewise.
    """

    task: Task
    others: Images
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
    return Case(*_brief(net, "vgg16", data, _LONGER, trained=32, side=32), 24, f"{_said(_LONGER)}; CIFAR-10")


def mobilenet(data: str) -> Case:
    """torchvision's MobileNetV2 with ten classes, trained on smaller images and compared at its full size of image."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's image extension is not needed
        try:
            from torchvision.models import mobilenet_v2
        except ImportError:
            raise SystemExit("mobilenet_v2 comes from torchvision: pip install --no-deps torchvision") from None
    made = _brief(mobilenet_v2(num_classes=10), "mobilenet_v2", data, _BRIEFLY, trained=96, side=224)
    return Case(*made, 5, f"{_said(_BRIEFLY)}; CIFAR-10 images enlarged to 224 x 224")


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
    pool, others = _halves(replace(training.head(2 * POOL), pad=0, flip=False))
    return Case(replace(task, train=pool, holdout=held.head(SCORED)), others, 48, about, _RESIDUAL, training, judged)


def _said(recipe: Recipe) -> str:
    return f"trained here for {recipe.steps} steps"


def _halves(split: Images) -> tuple[Images, Images]:
    half = len(split) // 2
    return split.head(half), replace(split, images=split.images[half:], labels=split.labels[half:])


def _brief(net: nn.Module, name: str, data: str, recipe: Recipe, *, trained: int, side: int) -> tuple[Task, Images]:
    """`net` after a brief training on images `trained` pixels wide, for images `side` pixels wide; and other images."""
    source = cifar10(model="resnet20", data=data)
    assert isinstance(source.train, Images)
    assert isinstance(source.holdout, Images)
    seen = _enlarged(source.train, recipe.steps * recipe.batch, trained)
    train(net, replace(seen, flip=True), functional.cross_entropy, recipe, seed=0)
    pool, others = _halves(_enlarged(source.train, 2 * POOL, side))
    scored = _enlarged(source.holdout, SCORED, side)
    update_bn(pool.batches(128), net.eval())
    return Task(net, next(scored.batches(1))[0], train=pool, holdout=scored, test=scored, name=name), others


def _enlarged(split: Images, count: int, side: int) -> Images:
    """The first `count` images, `side` pixels wide and high, one byte a pixel, not augmented in training."""
    images = split.images[:count]
    if images.shape[-1] != side:
        parts = (nn.functional.interpolate(p.float(), size=side, mode="bilinear") for p in torch.split(images, 128))
        images = torch.cat([part.round_().to(torch.uint8) for part in parts])
    return replace(split, images=images, labels=split.labels[:count], pad=0, flip=False)
