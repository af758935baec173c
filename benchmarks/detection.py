"""A detector of blood cells in half of its MACs: public weights are finetuned on BCCD, then pruned, for several seeds.

    python benchmarks/detection.py --data DIR --seeds 0 1 2

DIR holds the data set (https://github.com/Shenggan/BCCD_Dataset: its folder BCCD, or bccd.zip) and the public weights
of https://github.com/dog-qiuqiu/FastestDet (BSD-3-Clause) as fastestdet_coco.safetensors. The finetuned network is
written there as fastestdet_bccd.safetensors, once. For one search of it, with the same report:

    autoprune search search_spaces/fastestdet_bccd.toml --data DIR
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import safetensors.torch
import torch
from over_seeds import compare

from autoprune.detection.cells import loss
from autoprune.detection.precision import AveragePrecision
from autoprune.models.fastestdet import FastestDet
from autoprune.models.weights import read
from autoprune.tasks.bccd import CLASSES, WEIGHTS, splits
from autoprune.train import Recipe, train

SPACE = Path(__file__).parents[1] / "search_spaces" / "fastestdet_bccd.toml"
COCO = "fastestdet_coco.safetensors"
EPOCHS, BATCH, SEED = 25, 16, 0


def main() -> None:
    """Finetune, unless that was done, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs"))
    asked = parser.parse_args()
    if not (asked.data / WEIGHTS).is_file():
        finetune(asked.data)
    compare(SPACE, asked.seeds, asked.out, {"task.data": str(asked.data.resolve())})


def finetune(data: Path) -> None:
    """Train on BCCD's training images, from the public weights where they fit: everywhere but in the 80 classes."""
    training, holdout, test = splits(data)
    recipe = Recipe(steps=EPOCHS * (len(training) // BATCH), batch=BATCH, lr=0.03, warmup=0.1)
    torch.manual_seed(SEED)
    model = FastestDet(len(CLASSES))
    own, public = model.state_dict(), read(data / COCO)
    model.load_state_dict(
        {name: value for name, value in public.items() if value.shape == own[name].shape}, strict=False
    )
    begun = time.perf_counter()

    def watch(step: int, value: float) -> None:
        if step % (recipe.steps // EPOCHS) == 0:
            print(f"step {step}/{recipe.steps}, loss {value:.3f}, {time.perf_counter() - begun:.0f} s", flush=True)

    train(model, training, loss, recipe, seed=SEED, watch=watch)
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    safetensors.torch.save_file(state, data / WEIGHTS)
    judge = AveragePrecision(CLASSES)
    for name, split in (("holdout", holdout), ("test", test)):
        by_class = " ".join(f"{kind} {value:.4f}" for kind, value in judge.by_class(model, split).items())
        print(f"{name}: mAP@.5 {judge(model, split):.4f}, deviation {judge.deviation(model, split):.4f}; {by_class}")


if __name__ == "__main__":
    main()
