"""Which blocks of SmolLM2-135M can go: uniform, random, ShortGPT's rule, SLEB's, and our search, on WikiText-2.

    python benchmarks/smollm2.py --data DIR [--shares 0.125 0.25 0.375] [--trials 100] [--seeds 0] [--length 1024]
        [--holdout 4096] [--test 32768] [--metric kl] [--precision fp32] [--methods uniform ...]
        [--spaces blocks widths both] [--latency] [--json FILE] [--quick]

Every method is one-shot: nothing is trained or recovered. A share is of the 30 blocks, rounded; all methods of a share
have its MACs at the most. With --latency it is of the time of a prefill, as autoprune measures and predicts it: the
methods that decide on blocks leave out as few as meet it. They look at the first `holdout` tokens of the validation
text; the perplexity is of the first `test` tokens of the test text. Seconds are those of a method's evaluations.
Tokens a second are of a prefill of `length` tokens, and of 32 tokens written behind 128, batch 1: the median of five
turns, beside the dense network. `widths` and `both` search over attention heads (a key and value with its queries) and
units of the MLPs, and over these and the blocks; the width of what runs from block to block stays, since nothing is
trained.

ShortGPT: Men et al. 2024, https://arxiv.org/abs/2403.03853. SLEB: Song et al. 2024, https://arxiv.org/abs/2402.09025.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
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
from autoprune.targets.pytorch import Torch
from autoprune.values.budget import Budget, limits
from autoprune.values.space import Policy

Row = dict[str, Any]
Found = tuple[Policy, int, float]  # and the evaluations and seconds that it took
Ceiling = Mapping[str, str]  # as [budget] has it
KINDS = {"blocks": ["block"], "widths": ["channel"], "both": ["channel", "block"]}
METHODS = ("uniform", "random", "block influence", "greedy")
STREAM = "model.embed_tokens"  # the choice of what runs from block to block
PROMPT, WRITTEN = 128, 32  # tokens
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
    parser.add_argument("--latency", action="store_true", help="shares are what goes of a prefill's time")
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
    timed = {"budget": {"latency": "50%"}, "target": {"use": "torch", "tokens": asked.length}} if asked.latency else {}
    texts = {"length": asked.length, "holdout": asked.holdout, "test": asked.test, "train": asked.length}
    tables = {
        "name": "smollm2",
        "task": {"use": "wikitext2", "data": asked.data, "metric": asked.metric, **texts},
        "space": {"kinds": kinds, "step": 64, **({"exclude": [STREAM]} if "channel" in kinds else {})},
        "evaluator": {"use": "recalibrate", "images": 0, "batch": 2, "panel": 1, "probes": 0},
        "search": {"precision": asked.precision},
        **timed,
    }
    return study.build(config.parse(tables, "a benchmark"))


def measured(asked: argparse.Namespace, studies: dict[str, Study]) -> Iterator[Row]:
    """A row for each method, the dense network first."""
    of = studies["blocks"]
    print("| removed | method | seed | perplexity | MACs | parameters | read, tokens/s | of dense | written, tokens/s "
          "| of dense | evaluations | seconds |")  # fmt: skip
    print("|---" * 12 + "|")
    yield judged(of, of.space.dense(), {"share": 0.0, "method": "dense", "seed": "", "evaluations": 0, "seconds": 0.0})
    greedy = Greedy(of)
    for share in asked.shares:
        gone, ceiling = goal(of, share, asked.latency)
        for seed in asked.seeds:
            for name, method in methods(asked, studies, greedy, gone, ceiling, seed).items():
                policy, evaluations, seconds = method()
                spent = {"evaluations": evaluations, "seconds": seconds}
                space = studies[name.partition(" over ")[2] or "blocks"]
                yield judged(space, policy, {"share": share, "method": name, "seed": seed, **spent})


def goal(of: Study, share: float, timed: bool) -> tuple[int, Ceiling]:
    """How many blocks go, and what a search may cost, where that share goes."""
    every = len(of.space)
    if not timed:
        gone = round(share * every)
        return gone, {"macs": f"{of.costs['macs'].predict(without(of, range(every - gone, every))):.0f}"}
    latency = of.costs["latency"]
    counts = (
        count
        for count in range(every)
        if latency.predict(without(of, range(count))) <= (1 - share) * of.dense["latency"]
    )
    return next(counts), {"latency": f"{1 - share:.4%}"}


def methods(
    asked: argparse.Namespace, studies: dict[str, Study], greedy: Greedy, gone: int, ceiling: Ceiling, seed: int
) -> dict[str, Callable[[], Found]]:
    """Each method by name."""
    of = studies["blocks"]
    every: dict[str, Callable[[], Found]] = {
        "uniform": lambda: (without(of, np.linspace(0, len(of.space) - 1, gone + 2).round().astype(int)[1:-1]), 0, 0.0),
        "random": lambda: searched(of, "random", ceiling, asked.trials, seed),
        "block influence": lambda: by_influence(of, gone),
        "greedy": lambda: greedy(gone),
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


def searched(of: Study, controller: str, ceiling: Ceiling, trials: int, seed: int) -> Found:
    """The best policy of a search."""
    begun = time.perf_counter()
    budget = Budget(of.space, limits(ceiling, of.costs, of.space))
    made = plugins.build("controller", {"use": controller}, space=of.space, budget=budget, seed=seed)
    best: tuple[float, Policy] | None = None
    for number in range(trials):
        trial = of.attempt(number, made.ask())
        made.tell(trial)
        if trial.metric is not None and (best is None or trial.metric > best[0]):
            best = trial.metric, trial.policy
    assert best is not None
    return best[1], trials, time.perf_counter() - begun


@dataclass
class Greedy:
    """SLEB: one block after the other, each time the one whose absence leaves the best score."""

    of: Study
    out: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __call__(self, gone: int) -> Found:
        """Without so many, of which those that were found for another share are not looked for again."""
        every = range(len(self.of.space))
        while len(self.out) < gone:
            begun = time.perf_counter()
            left = [at for at in every if at not in self.out]
            scores = {at: self.of.attempt(0, without(self.of, [*self.out, at])).metric or -np.inf for at in left}
            self.out.append(max(left, key=lambda at: scores[at]))
            self.seconds.append(time.perf_counter() - begun)
        evaluations = sum(len(every) - before for before in range(gone))
        return without(self.of, self.out[:gone]), evaluations, sum(self.seconds[:gone])


def by_influence(of: Study, gone: int) -> Found:
    """ShortGPT: without the blocks that turn what comes in the least."""
    begun = time.perf_counter()
    policy = without(of, np.argsort(influences(of))[:gone])
    return policy, 1, time.perf_counter() - begun


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
    shares = {name: of.costs[name].predict(policy) / of.dense[name] for name in ("macs", "params")}
    blocks = [c.name for c, level in zip(of.space, policy.levels, strict=True) if level == 0]
    inputs, _ = next(of.task.holdout.batches(1))
    length = inputs["input_ids"].shape[1]
    read = speed(Torch(), length, inputs, of.task.model, net)
    written = speed(Torch(tokens=PROMPT, generate=WRITTEN), WRITTEN, inputs, of.task.model, net)
    speeds = {"read": read[0], "read_of_dense": read[1], "written": written[0], "written_of_dense": written[1]}
    return {**row, **shares, "perplexity": perplexity(net, of.task.test), "without": blocks, **speeds}


def speed(target: Torch, tokens: int, inputs: Any, dense_net: nn.Module, net: nn.Module) -> tuple[float, float]:
    """Tokens a second, and as a multiple of the dense network's, timed in turn."""
    pair = [target.ready(model, inputs) for model in (dense_net, net)]
    dense, own = (statistics.median(times) for times in zip(*([run() for run in pair] for _ in range(5)), strict=True))
    return 1e3 * tokens / own, dense / own


def line(row: Row) -> str:
    """A row of the table."""
    cells = (
        f"{row['share']:.1%}", row["method"], row["seed"], f"{row['perplexity']:.2f}", f"{row['macs']:.1%}",
        f"{row['params']:.1%}", f"{row['read']:.0f}", f"{row['read_of_dense']:.2f}x", f"{row['written']:.1f}",
        f"{row['written_of_dense']:.2f}x", row["evaluations"], f"{row['seconds']:.0f}",
    )  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    main()
