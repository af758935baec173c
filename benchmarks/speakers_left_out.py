"""The policy of a run on spoken digits, on networks that never heard the speaker who tests them: six folds.

    python benchmarks/speakers_left_out.py RUN --data DIR [--speakers 0 1 2 3 4 5]

DIR holds spoken_digits.npz and, of every fold, the weights that `train_spoken_digits.py --tests speaker-N` writes. In
each fold the policy that RUN found on the official split, and the uniform one of the run's report, are given to that
fold's own network: pruned and recovered as in the run, finetuned by its recipe, tested on the speaker left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping
from pathlib import Path

from autoprune import config
from autoprune.runs import study
from autoprune.tasks.spoken_digits import spoken_digits
from autoprune.train import train
from autoprune.values.space import Policy


def main() -> None:
    """Every fold, then the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--speakers", type=int, nargs="+", default=range(6))
    asked = parser.parse_args()
    report = json.loads((asked.run / "report.json").read_text())
    policies = {role: Policy(tuple(report["networks"][role]["kept"])) for role in ("dense", "ours", "uniform")}
    folds = [of_fold(asked.run, asked.data, speaker, policies) for speaker in asked.speakers]
    print("\n| network | " + " | ".join(f"speaker {n}" for n in asked.speakers) + " | mean |")
    print("|---" * (len(folds) + 2) + "|")
    for role in policies:
        scores = [fold[role] for fold in folds]
        print(f"| {role} | " + " | ".join(f"{score:.2%}" for score in [*scores, statistics.mean(scores)]) + " |")


def of_fold(run: Path, data: Path, speaker: int, policies: Mapping[str, Policy]) -> dict[str, float]:
    """The test top-1 of one fold's dense network and of those that the policies make of it."""
    held = json.loads((run / "config.json").read_text())
    asked = config.parse(held, str(run), {"budget": {}, "space.step": 1})
    task = spoken_digits(asked.task.settings["model"], data=str(data), test=f"speaker-{speaker}")
    built = study.build(asked, task=task)
    found = {}
    for role, policy in policies.items():
        model = task.model
        if role != "dense":
            model = built.evaluator.recover(built.evaluator.realise(policy)).model
            train(model, task.train, task.loss, built.finetune, seed=built.seed, teacher=task.model)
        found[role] = task.metric(model, task.test)
    print(f"speaker {speaker}: " + ", ".join(f"{role} {score:.2%}" for role, score in found.items()), flush=True)
    return found


if __name__ == "__main__":
    main()
