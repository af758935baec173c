"""Train the networks of the task `spoken_digits`, without its holdout and its test recordings.

    python benchmarks/train_spoken_digits.py --data DIR [--models ds-cnn gru lstm] [--tests takes speaker-0 ...]
                                              [--epochs 30]

DIR holds spoken_digits.npz; weights are written beside it (or to --out), where the task looks for them. Seeded; a
network takes about two minutes on one core. The test recordings are scored once, at the end.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import safetensors.torch
import torch
from torch.nn import functional

from autoprune import models
from autoprune.task import top1
from autoprune.tasks.spoken_digits import MODELS, OFFICIAL, TESTS, Recordings, splits, weights_name
from autoprune.train import Recipe, train

EPOCHS = 30
LR = {"ds-cnn": 0.1, "gru": 0.3, "lstm": 0.5}
BATCH = 64


def main() -> None:
    """Train every network asked for and save it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="directory with spoken_digits.npz")
    parser.add_argument("--out", type=Path, help="where the weights are written; the data directory if not given")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--tests", nargs="+", choices=TESTS, default=[OFFICIAL])
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    for test in asked.tests:
        training, holdout, tested = splits(asked.data, test)
        for name in asked.models:
            begun = time.perf_counter()
            model = trained(name, training, asked.epochs, asked.seed)
            file = (asked.out or asked.data) / weights_name(name, test)
            safetensors.torch.save_file(model.state_dict(), file)
            scores = f"holdout top-1 {top1(model, holdout):.4f}, test top-1 {top1(model, tested):.4f}"
            print(f"{name}, {test}: {scores}, {time.perf_counter() - begun:.0f} s, written to {file}", flush=True)


def trained(name: str, training: Recordings, epochs: int, seed: int) -> torch.nn.Module:
    """The network called `name`, trained from new weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = models.build(f"spoken_digits:{name}")
    steps = epochs * (len(training) // BATCH)
    recipe = Recipe(steps=steps, batch=BATCH, lr=LR[name], weight_decay=5e-4, label_smoothing=0.05)
    train(model, training, functional.cross_entropy, recipe, seed=seed)
    return model


if __name__ == "__main__":
    main()
