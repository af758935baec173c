"""What `autoprune apply` does, and what it says of the network that it made."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from autoprune import plugins
from autoprune.command.shared import bars, ceilings, print_json, print_table, refuse_both, refuse_unwritable
from autoprune.command.terminal import show as print
from autoprune.errors import ConfigError
from autoprune.files import export, policy_file
from autoprune.report import words
from autoprune.runs import apply, rebudget
from autoprune.runs.apply import Applied
from autoprune.task import Task

_DEFAULT = Path("pruned.safetensors")
_EXACT = "All of the holdout was looked at, after a recovery without short cuts: scores of a search differ a little."


def command(asked: argparse.Namespace) -> None:
    """Make the network, write it and show it."""
    recipe = _recipe(asked)
    if asked.out is None:
        asked.out = _DEFAULT
        if _DEFAULT.exists():
            raise ConfigError(f"{_DEFAULT} is there already, and is not written over; --out FILE names another")
    refuse_unwritable(asked.out)
    data = str(Path(asked.data).absolute()) if asked.data else ""
    task = plugins.build("task", {"use": asked.task, **({"data": data} if data else {})}) if asked.task else None
    _refuse_mixed(asked)
    if asked.budget:
        _rebudget(asked, data, task, recipe)
        return
    if asked.at:
        with bars(asked) as shown:
            options = {"data": data, "trust": asked.trust, "watch": shown.stage, **recipe}
            point = apply.apply_point(asked.policy, ceilings(asked.at), task, **options)
        trial = point.trial
        shares = ", ".join(f"{share:.1%} of the {name}" for name, share in point.shares.items())
        said = {"run": str(asked.policy), "trial": trial.number, "metric": point.metric, "shares": dict(point.shares)}
        _show_applied(asked, point.applied, said, f"trial {trial.number}: {shares}, {point.said} in the search\n")
        return
    with bars(asked) as shown:
        made = apply.applied_policy(asked.policy, task, data=data, trust=asked.trust, watch=shown.stage, **recipe)
    _show_applied(asked, made, {"policy": str(asked.policy)}, "")


def _refuse_mixed(asked: argparse.Namespace) -> None:
    if asked.at and asked.budget:
        raise ConfigError(
            "--at and --budget: one of them is right, --at for a trial of the run, --budget for a new one"
        )
    if asked.target and not asked.budget:
        raise ConfigError("--target is for --budget; write that, too, such as --budget latency=2ms")


def _rebudget(asked: argparse.Namespace, data: str, task: Task | None, recipe: Mapping[str, Any]) -> None:
    """Make the network of a policy that is proposed for another budget; the policy is written beside it."""
    path = asked.out.with_suffix(".policy.json")
    with bars(asked) as shown:
        options = {"data": data, "trust": asked.trust, "watch": shown.stage, "target": asked.target, **recipe}
        found = rebudget.rebudget(asked.policy, ceilings(asked.budget), task, **options)
    policy_file.write(path, found.file)
    about = {"run": str(asked.policy), "policy": str(path), "said": list(found.said)}
    _show_applied(asked, found.applied, about, "\n".join(found.said) + "\n")
    if not asked.json:
        print(path)


def _recipe(asked: argparse.Namespace) -> dict[str, Any]:
    """How a network is to be finetuned, as `apply_policy` takes it."""
    other = {key: value for key in ("epochs", "lr") if (value := getattr(asked, key)) is not None}
    refuse_both(asked, "epochs", "lr")
    return {"finetune": not asked.no_finetune, "recipe": other}


def _show_applied(asked: argparse.Namespace, made: Applied, about: Mapping[str, Any], said: str) -> None:
    """Write the network, and show what it is: `about` as JSON, or what was `said` before the table."""
    export.save(made.model, asked.out, rebuild=made.rebuild)
    if asked.json:
        print_json({**about, "model": str(asked.out), **facts(made)})
        return
    if said:
        print(said)
    head, *others = rows(made)
    print_table(head, others)
    guessed = [f"Its {name} is predicted, not measured." for name in made.guessed]
    file = f"{asked.out} ({words.size(asked.out.stat().st_size)})"
    print("\n".join(["", sentence(made), *guessed, _EXACT, "", file]))


def facts(made: Applied) -> dict[str, Any]:
    """As plain values, the metric as it is."""
    costs = {name: {"unit": unit, "dense": dense, "pruned": cost} for name, (unit, dense, cost) in made.costs.items()}
    holdout = {"dense": made.dense, "pruned": made.before, "finetuned": made.after}
    return {
        "metric_name": made.judge.name,
        "holdout": holdout,
        "finetune_steps": made.taught.steps,
        "costs": costs,
        "predicted_with_error": list(made.guessed),
    }


def rows(made: Applied) -> Iterator[list[str]]:
    """A table, its head first: the dense network, the pruned one, and that one after its finetune."""
    arrow = " ↓" if made.judge.lower_is_better else ""
    yield [
        "network",
        f"holdout {made.judge.name}{arrow}",
        *(words.heading(n, u) for n, (u, _, _) in made.costs.items()),
    ]
    yield ["dense", _quality(made, made.dense), *(words.quantity(dense) for _, dense, _ in made.costs.values())]
    pruned = [f"{words.quantity(cost)} ({cost / dense:.1%})" for _, dense, cost in made.costs.values()]
    yield ["pruned", _quality(made, made.before), *pruned]
    if made.taught.steps:
        yield ["finetuned", _quality(made, made.after), *pruned]


def sentence(made: Applied) -> str:
    """How the network was trained."""
    it = made.taught
    if not it.steps:
        return "It was not finetuned."
    if it.use:
        return f"It was finetuned: {it.use}, {it.epochs:g} epochs."
    return f"It was finetuned: {words.counted(it.steps, 'step')} of {it.batch} samples, learning rate {it.lr:g}."


def _quality(made: Applied, metric: float) -> str:
    return words.number(metric, percent=made.judge.percent)
