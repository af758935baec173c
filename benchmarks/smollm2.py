"""Which blocks of SmolLM2-135M can go: uniform, random, ShortGPT's rule, SLEB's, and our search, on WikiText-2.

    python benchmarks/smollm2.py --data DIR [--shares 0.125 0.25 0.375] [--trials 100] [--seeds 0] [--length 1024]
        [--holdout 4096] [--test 32768] [--metric kl] [--precision fp32] [--methods uniform ...]
        [--spaces blocks widths both] [--json FILE] [--quick]

Every method is one-shot: nothing is trained or recovered. A share is of the 30 blocks, rounded; all methods of a share
have its MACs at the most. They look at the first `holdout` tokens of the validation text; the perplexity is of the
first `test` tokens of the test text. Seconds are those of a method's evaluations; tokens a second are of a prefill of
`length` tokens, batch 1, the median of five, timed in turn with the dense network. `widths` and `both` search over the
units of the MLPs, and over these and the blocks.

ShortGPT: Men et al. 2024, https://arxiv.org/abs/2403.03853. SLEB: Song et al. 2024, https://arxiv.org/abs/2402.09025.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoprune import config, plugins
from autoprune.inputs import call
from autoprune.perplexity import perplexity
from autoprune.runs import study
from autoprune.runs.study import Study
from autoprune.values.budget import Budget, limits
from autoprune.values.space import Policy

Row = dict[str, Any]
Found = tuple[Policy, int]  # and how many evaluations it took
KINDS = {"blocks": ["block"], "widths": ["channel"], "both": ["channel", "block"]}
METHODS = ("uniform", "random", "block influence", "greedy")
QUICK = {"shares": [0.25], "trials": 10, "length": 128, "holdout": 256, "test": 512, "spaces": ["blocks"],
         "methods": METHODS[:3]}  # fmt: skip


def main() -> None:
    """Search, print the table, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="", help="the directory of the texts and the folder smollm2")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.125, 0.25, 0.375], help="of the blocks")
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--holdout", type=int, default=4096)
    parser.add_argument("--test", type=int, default=32_768)
    parser.add_argument("--metric", default="kl", help="of the search: perplexity, kl or agreement")
    parser.add_argument("--precision", default="fp32", help="of the search; perplexities are of fp32")
    parser.add_argument("--spaces", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS, help="that decide on blocks")
    parser.add_argument("--json", type=Path, help="where the rows go")
    parser.add_argument("--quick", action="store_true", help=f"a few minutes: {QUICK}")
    asked = parser.parse_args()
    vars(asked).update(QUICK if asked.quick else {})
    studies = {space: built(asked, KINDS[space]) for space in dict.fromkeys(["blocks", *asked.spaces])}
    rows: list[Row] = []
    for row in measured(asked, studies):
        rows.append(row)
        print(line(row), flush=True)
        if asked.json:
            asked.json.write_text(json.dumps(rows, indent=1))


def built(asked: argparse.Namespace, kinds: list[str]) -> Study:
    """What is searched."""
    texts = {"length": asked.length, "holdout": asked.holdout, "test": asked.test, "train": asked.length}
    tables = {
        "name": "smollm2",
        "task": {"use": "wikitext2", "data": asked.data, "metric": asked.metric, **texts},
        "space": {"kinds": kinds, "step": 64},
        "evaluator": {"use": "recalibrate", "images": 0, "batch": 2, "panel": 1, "probes": 0},
        "search": {"precision": asked.precision},
    }
    return study.build(config.parse(tables, "a benchmark"))


def measured(asked: argparse.Namespace, studies: dict[str, Study]) -> Iterator[Row]:
    """A row for each method, the dense network first."""
    of = studies["blocks"]
    print("| removed | method | seed | perplexity | MACs | parameters | tokens/s | of dense | evaluations | seconds |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    yield judged(of, of.space.dense(), {"share": 0.0, "method": "dense", "seed": "", "evaluations": 0, "seconds": 0.0})
    for share in asked.shares:
        gone = round(share * len(of.space))
        ceiling = of.costs["macs"].predict(without(of, range(len(of.space) - gone, len(of.space))))
        for seed in asked.seeds:
            for name, method in methods(asked, studies, gone, ceiling, seed).items():
                begun = time.perf_counter()
                policy, evaluations = method()
                spent = {"evaluations": evaluations, "seconds": time.perf_counter() - begun}
                space = studies[name.partition(" over ")[2] or "blocks"]
                yield judged(space, policy, {"share": share, "method": name, "seed": seed, **spent})


def methods(
    asked: argparse.Namespace, studies: dict[str, Study], gone: int, ceiling: float, seed: int
) -> dict[str, Callable[[], Found]]:
    """Each method by name."""
    of = studies["blocks"]
    every: dict[str, Callable[[], Found]] = {
        "uniform": lambda: (without(of, np.linspace(0, len(of.space) - 1, gone + 2).round().astype(int)[1:-1]), 0),
        "random": lambda: searched(of, "random", ceiling, asked.trials, seed),
        "block influence": lambda: (without(of, np.argsort(influences(of))[:gone]), 1),
        "greedy": lambda: greedily(of, gone),
    }
    found = {name: every[name] for name in asked.methods}
    for space in asked.spaces:
        found[f"switch over {space}"] = lambda space=space: searched(  # type: ignore[misc]
            studies[space], "switch", ceiling, asked.trials, seed
        )
    return found


def without(of: Study, blocks: Any) -> Policy:
    """The policy that leaves these blocks out, by position."""
    return Policy.of(0 if at in set(map(int, blocks)) else 1 for at in range(len(of.space)))


def searched(of: Study, controller: str, ceiling: float, trials: int, seed: int) -> Found:
    """The best policy of a search."""
    budget = Budget(of.space, limits({"macs": f"{ceiling:.0f}"}, of.costs, of.space))
    made = plugins.build("controller", {"use": controller}, space=of.space, budget=budget, seed=seed)
    best: tuple[float, Policy] | None = None
    for number in range(trials):
        trial = of.attempt(number, made.ask())
        made.tell(trial)
        if trial.metric is not None and (best is None or trial.metric > best[0]):
            best = trial.metric, trial.policy
    assert best is not None
    return best[1], trials


def greedily(of: Study, gone: int) -> Found:
    """SLEB: one block after the other, each time the one whose absence leaves the best score."""
    out: list[int] = []
    evaluations = 0
    for _ in range(gone):
        left = [at for at in range(len(of.space)) if at not in out]
        scores = {at: of.attempt(0, without(of, [*out, at])).metric or -np.inf for at in left}
        evaluations += len(left)
        out.append(max(left, key=lambda at: scores[at]))
    return without(of, out), evaluations


def influences(of: Study) -> list[float]:
    """ShortGPT: how far each block turns what comes in, one less the mean cosine over the holdout's tokens."""
    turned = [list[Tensor]() for _ in of.space]

    def look(at: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            after = output[0] if isinstance(output, tuple) else output
            turned[at].append(1 - nn.functional.cosine_similarity(args[0].float(), after.float(), dim=-1).flatten())

        return hook

    hooks = [
        of.task.model.get_submodule(choice.name).register_forward_hook(look(at)) for at, choice in enumerate(of.space)
    ]
    with torch.inference_mode():
        for inputs, _ in of.task.holdout.batches(1):
            call(of.task.model, inputs)
    for hook in hooks:
        hook.remove()
    return [float(torch.cat(parts).mean()) for parts in turned]


def judged(of: Study, policy: Policy, row: Row) -> Row:
    """`row` with what the network of `policy` costs and how good it is."""
    net = of.evaluator.realise(policy).model.eval()
    speed, dense = speeds(of, net, of.task.model)
    shares = {name: of.costs[name].predict(policy) / of.dense[name] for name in ("macs", "params")}
    blocks = [c.name for c, level in zip(of.space, policy.levels, strict=True) if level == 0]
    return {**row, **shares, "perplexity": perplexity(net, of.task.test), "speed": speed, "of_dense": speed / dense,
            "without": blocks}  # fmt: skip


def speeds(of: Study, *models: nn.Module) -> list[float]:
    """Tokens a second of each, in a prefill of one window, one after the other and again."""
    inputs, _ = next(of.task.holdout.batches(1))
    seconds = [list[float]() for _ in models]
    with torch.inference_mode():
        for _ in range(6):
            for model, times in zip(models, seconds, strict=True):
                begun = time.perf_counter()
                call(model, inputs)
                times.append(time.perf_counter() - begun)
    return [inputs["input_ids"].numel() / statistics.median(times[1:]) for times in seconds]


def line(row: Row) -> str:
    """A row of the table."""
    cells = (
        f"{row['share']:.1%}", row["method"], row["seed"], f"{row['perplexity']:.2f}", f"{row['macs']:.1%}",
        f"{row['params']:.1%}", f"{row['speed']:.0f}", f"{row['of_dense']:.2f}x", row["evaluations"],
        f"{row['seconds']:.0f}",
    )  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    main()
