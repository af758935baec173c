"""Train the ResNet-20 that travels with the package, on full Fashion-MNIST without its holdout.

    python -m autoprune.data.train_resnet20 /usr/share/datasets/fashion-mnist

Seeded; 16 epochs over 58,000 images take about 50 minutes on 2 cores. The test split is scored once, at the end.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import safetensors.torch
import torch
from torch.nn import functional

from autoprune.models.resnet import ResNet
from autoprune.task import top1
from autoprune.tasks.fashion_mnist import WEIGHTS, splits
from autoprune.train import Recipe, train

EPOCHS, SEED = 16, 0


def main(source: Path, target: Path = WEIGHTS) -> None:
    """Train, save to `target`, print the test top-1."""
    training, holdout, test = splits(str(source))
    recipe = Recipe(steps=EPOCHS * (len(training) // 128), batch=128, lr=0.1, weight_decay=5e-4, label_smoothing=0.05)
    torch.manual_seed(SEED)
    model = ResNet(20, channels=1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    begun = time.perf_counter()

    def watch(step: int, value: float) -> None:
        if step % 200 == 0:
            print(f"step {step}/{recipe.steps}, loss {value:.3f}, {time.perf_counter() - begun:.0f} s", flush=True)

    train(model, training, functional.cross_entropy, recipe, seed=SEED, watch=watch)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    safetensors.torch.save_file(state, target)
    print(f"holdout top-1 {top1(model, holdout):.4f}, test top-1 {top1(model, test):.4f}, written to {target}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
