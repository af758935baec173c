"""How long it takes to know what of a network can be pruned: our trace, with its proofs, and Torch-Pruning's graph.

    pip install -e '.[benchmarks]'                     and torchvision, without its own requirements
    python benchmarks/trace_speed.py [--networks NAME ...] [--json FILE]
    python benchmarks/trace_speed.py --quick           one network, once

Both sides take turns in one process, on random weights and one batch of noise at 224 pixels. They do not do the same:
Torch-Pruning follows autograd's graph and finds what depends on what; here every choice is proven besides, by pruning
the network at random and comparing what it computes, and all costs are counted. What a proof is worth, and where the
other's answer is wrong, is not told by seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.structure.trace import trace

try:
    import torch_pruning as tp
except ImportError:
    raise SystemExit("this benchmark compares with Torch-Pruning: pip install 'torch-pruning>=1.6'") from None

NETWORKS = ("resnet50", "vit_b_16", "mobilenet_v3_large", "mobilenet_v2")
SIDE, ROUNDS = 224, 3


def main() -> None:
    """Run what was asked for and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), metavar="NAME", help="of torchvision")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    names, rounds = (["mobilenet_v2"], 1) if asked.quick else (asked.networks, ROUNDS)
    rows: list[dict[str, Any]] = []
    print(f"{torch.get_num_threads()} threads, {SIDE} pixels, medians of {rounds}\n")
    print("| network | choices | trace, s | of it CPU, s | Torch-Pruning, s | ratio |\n|---|---|---|---|---|---|")
    for name in names:
        rows += compared(name, rounds)
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=2) + "\n")


def compared(name: str, rounds: int) -> list[dict[str, Any]]:
    """Rows of both sides for one network, which is also printed."""
    model, images = _network(name), torch.randn(1, 3, SIDE, SIDE)
    choices = 0
    spent: dict[str, list[tuple[float, float]]] = {"trace": [], "torch-pruning": []}
    for _ in range(rounds):
        found, seconds = _timed(lambda: trace(model, images))
        choices = len(found.choices)
        spent["trace"].append(seconds)
        spent["torch-pruning"].append(_timed(lambda: _graph(model, images))[1])
    ours, cpu = (statistics.median(one[which] for one in spent["trace"]) for which in (0, 1))
    theirs = statistics.median(one[0] for one in spent["torch-pruning"])
    print(f"| {name} | {choices} | {ours:.2f} | {cpu:.2f} | {theirs:.2f} | {ours / theirs:.1f} |", flush=True)
    return [
        {"network": name, "method": method, "seed": number, "metric": seconds, "cpu": busy}
        for method, times in spent.items()
        for number, (seconds, busy) in enumerate(times)
    ]


def _network(name: str) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's image extension is not needed
        from torchvision import models
    torch.manual_seed(0)
    made: nn.Module = models.get_model(name, weights=None).eval()
    return made


def _graph(model: nn.Module, images: Tensor) -> object:
    return tp.DependencyGraph().build_dependency(model, example_inputs=images)


def _timed(work: Callable[[], Any]) -> tuple[Any, tuple[float, float]]:
    """What `work` gives, and the seconds that passed and those that processors worked."""
    passed, busy = time.perf_counter(), time.process_time()
    found = work()
    return found, (time.perf_counter() - passed, time.process_time() - busy)


if __name__ == "__main__":
    main()
