"""How well latency is predicted, on this machine and on a phone's table.

    python benchmarks/latency_model.py [--json FILE]          ResNet-56, and MobileNetV2 (needs torchvision)
    python benchmarks/latency_model.py --quick                ResNet-20 with few policies, in under a minute
    python benchmarks/latency_model.py --pixel1 FILE          leave one network of a table of operators out

Each network and target: a latency model is built as a search builds it, from nothing. Then policies that it never saw
are timed twice, made anew in between: some spread over 20 to 100 % of the MACs, and some at equal MACs (50 % +- 1 %),
where MACs say nothing. Errors are shares of the mean of both timings; the noise is what one timing differs by from the
other. Beside the model are straight lines in MACs and in parameters, fitted on the same policies as the model.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls
from torch import nn

from autoprune import plugins
from autoprune.costs.arithmetic import Macs, Params
from autoprune.costs.latency.accuracy import accuracy, straight
from autoprune.costs.latency.draws import drawn
from autoprune.costs.latency.model import BUILD, Latency
from autoprune.models.resnet import ResNet
from autoprune.structure.trace import restrict, trace
from autoprune.task import Images, Task
from autoprune.values.space import SearchSpace

Floats = NDArray[np.float64]
MAX_SPARSITY, EQUAL, TOLERANCE = 0.9, 0.5, 0.01
TOGETHER = 8


def mobilenet() -> nn.Module:
    """torchvision's MobileNetV2."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's image extension is not needed
        try:
            from torchvision.models import mobilenet_v2
        except ImportError:
            raise SystemExit("mobilenet_v2 comes from torchvision: pip install --no-deps torchvision") from None
    net: nn.Module = mobilenet_v2()
    return net


NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], int]] = {  # and the side of its images
    "resnet20": (lambda: ResNet(20), 32),
    "resnet56": (lambda: ResNet(56), 32),
    "mobilenet_v2": (mobilenet, 224),
}


def main() -> None:
    """Compare on every network and target; what is known so far is written after each."""
    asked = arguments()
    if asked.pixel1:
        print("\n".join(left_out(asked.pixel1)))
        return
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["AUTOPRUNE_CACHE"] = folder
        for network in asked.networks:
            for target in asked.targets:
                found.setdefault(network, {})[target] = measured(network, target, asked)
                if asked.json:
                    asked.json.write_text(json.dumps(found, indent=2) + "\n")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["resnet56", "mobilenet_v2"])
    parser.add_argument("--targets", nargs="+", default=["torch", "onnxruntime"])
    parser.add_argument("--threads", type=int, default=0, help="of the target; 0: torch's own number")
    parser.add_argument("--unseen", type=int, default=100, help="policies of each kind")
    parser.add_argument("--policies", type=int, default=150, help="that the model is fitted on, at most")
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--pixel1", type=Path, metavar="FILE", help="a table of operators, milliseconds of four networks"
    )
    parser.add_argument("--quick", action="store_true", help="ResNet-20, few policies")
    asked = parser.parse_args()
    if asked.quick:
        asked.networks, asked.unseen, asked.policies = ["resnet20"], 16, 40
    return asked


def measured(network: str, target: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Every figure of one network on one target; prints them."""
    cost = model_of(network, target, asked)
    begun = time.perf_counter()
    cost.learn()
    seconds = time.perf_counter() - begun
    print(f"\n{network} on {', '.join(f'{k} {v}' for k, v in cost.target.key.items())}")
    print(f"dense {cost.dense:.3g} ms; the model was built in {seconds:.0f} s ({cost.fit.work.blocks})")
    print("\n".join(cost.notes), end="\n" if cost.notes else "")
    rng = np.random.default_rng(1)
    spread = compared(cost, drawn(cost.space, asked.unseen, rng))
    equal = compared(cost, drawn(cost.space, asked.unseen, rng, EQUAL))
    print(f"{'':24}  model  MACs  params | noise | rank: model  noise | within 10 %")
    for name, it in (("20 to 100 % of the MACs", spread), (f"{EQUAL:.0%} of the MACs", equal)):
        print(
            f"{name:24} {it['mape']:6.2%} {it['mape_macs_only']:6.2%} {it['mape_params_only']:6.2%} "
            f"| {it['noise']:5.2%} "
            f"|      {it['spearman']:6.3f} {it['spearman_noise']:6.3f} | {it['within_10']:.0%}   "
            f"(latencies {it['least']:.0%} to {it['most']:.0%} of dense)",
            flush=True,
        )
    return {**spread, "equal_macs": equal, "build_seconds": seconds, "dense_ms": cost.dense}


def model_of(network: str, target: str, asked: argparse.Namespace) -> Latency:
    """A latency model that has not measured anything."""
    make, side = NETWORKS[network]
    torch.manual_seed(0)
    pixels, labels = torch.zeros(2, 3, side, side, dtype=torch.uint8), torch.zeros(2, dtype=torch.long)
    images = Images(pixels, labels, (0.5,) * 3, (0.25,) * 3)
    task = Task(make().eval(), torch.randn(1, 3, side, side), train=images, holdout=images, test=images, name=network)
    traced = trace(task.model, task.example)
    choices = tuple(restrict(choice, max_sparsity=MAX_SPARSITY, step=1) for choice in traced.choices)
    space = SearchSpace(network, choices, traced.ops, traced.parameters)
    settings = {"use": target, **({"threads": asked.threads} if asked.threads else {})}
    built = plugins.build("target", settings)
    few = {"policies": asked.policies, "unseen": 24 if asked.policies >= 100 else 8}
    return Latency(space, traced, task, built, **few)


def compared(cost: Latency, policies: Sequence[tuple[int, ...]]) -> dict[str, float]:
    """The model and simpler ones against two timings of `policies`."""
    first, again = timings(cost, policies), timings(cost, policies)
    kept = np.array(policies)
    built, ratios = fitted_on(cost)
    lines = {
        what: straight(price(built), ratios, price(kept))
        for what, price in (("macs", Macs(cost.space).predict_many), ("params", Params(cost.space).predict_many))
    }
    found = accuracy(cost.fit(kept), first, again, lines["macs"])
    truth = (first + again) / 2
    return {
        "mape": found.mape,
        "noise": found.noise,
        "spearman": found.spearman,
        "spearman_noise": found.spearman_noise,
        "within_5": found.within_5,
        "within_10": found.within_10,
        "mape_macs_only": found.mape_macs,
        "mape_params_only": float(np.abs(lines["params"] / truth - 1).mean()),
        "least": float(truth.min()),
        "most": float(truth.max()),
    }


def timings(cost: Latency, policies: Sequence[tuple[int, ...]]) -> Floats:
    """Ratios to the dense network, in the order of `policies`."""
    parts = [policies[at : at + TOGETHER] for at in range(0, len(policies), TOGETHER)]
    return np.array([figure.ratio for part in parts for figure in cost.timed(part).figures])


def fitted_on(cost: Latency) -> tuple[NDArray[np.int64], Floats]:
    """The policies that the model was fitted on."""
    built = cost.timings[BUILD]
    return np.array([t.kept for t in built]), np.array([t.ratio for t in built])


def left_out(table: Path) -> list[str]:
    """Totals of each network in a table of operators, predicted from the others, a line each.

    For each kind of operator, time for being called, for multiplications, for elements read and written, and for
    weights, none below zero; squared errors count by 1 / time, as those of sums do.
    """
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    models, kinds = (list(dict.fromkeys(row[word] for row in rows)) for word in ("model", "kind"))
    spent = np.array([float(row["mean_ms"]) for row in rows])
    matrix = np.stack([work(row, kinds) for row in rows])
    matrix /= matrix.max(0, initial=0, where=matrix.max(0) > 0) + (matrix.max(0) == 0)
    weight = 1 / np.sqrt(np.maximum(spent, 0.02))
    lines = []
    for model in models:
        out = np.array([row["model"] == model for row in rows])
        rates, _ = nnls(matrix[~out] * weight[~out, None], spent[~out] * weight[~out], maxiter=10_000)
        predicted, wanted = float((matrix[out] @ rates).sum()), float(spent[out].sum())
        lines.append(
            f"{model:16} measured {wanted:7.2f} ms, predicted {predicted:7.2f} ms ({predicted / wanted - 1:+.1%})"
        )
    return lines


def work(row: Mapping[str, str], kinds: Sequence[str]) -> Floats:
    """What one operator does, in the columns of its kind."""
    number = {word: float(row[word] or 0) for word in ("cin", "cout", "h_in", "h_out", "macs")}
    depthwise = row["kind"].startswith("dw")
    found = np.zeros((len(kinds), 5))
    found[kinds.index(row["kind"])] = (
        1.0,
        number["macs"],
        number["h_in"] ** 2 * number["cin"],
        number["h_out"] ** 2 * number["cout"],
        number["cin"] * (1 if depthwise else number["cout"]),
    )
    return found.ravel()


if __name__ == "__main__":
    main()
