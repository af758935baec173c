"""The command line: search, resume, check, latency, report, apply, plugins. The only file that prints.

What a person got wrong is one line on stderr and exit status 2; Ctrl-C is 130, with the command that goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from autoprune import __version__, terminal
from autoprune.errors import AutopruneError, ConfigError

if TYPE_CHECKING:
    from autoprune.run import Run
    from autoprune.study import Study

_POLICIES, _STEPS = 40, 50  # of check --fidelity
_OVER = {"trials": "search.trials", "seed": "search.seed", "device": "search.device", "target": "target"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    asked = _parser().parse_args(arguments)
    try:
        asked.run(asked)
    except AutopruneError as wrong:
        print(f"autoprune: error: {' '.join(str(wrong).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        print("\nautoprune: " + (str(stopped) or "stopped; nothing was written"), file=sys.stderr)
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    """One line for a wrong argument, too, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="autoprune",
        description="Finds how much to prune each layer of a trained network, so that it meets a budget "
        "and loses the least quality.",
        epilog="A search space is a TOML file; the name of a built-in task stands for its defaults.",
    )
    parser.add_argument("--version", action="version", version=f"autoprune {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_search(commands)
    _add_resume(commands)
    _add_check(commands)
    _add_latency(commands)
    _add_report(commands)
    _add_apply(commands)
    _add_plugins(commands)
    return parser


def _add_search(commands: Any) -> None:
    command = _command(commands, "search", _search, "find a policy, finetune, export, report")
    _space_arguments(command)
    command.add_argument("--controller", metavar="NAME", help="who proposes policies, in place of the file's")
    command.add_argument("--trials", type=_count, metavar="N", help="policies to evaluate")
    command.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="where runs lie (default: runs)")


def _add_resume(commands: Any) -> None:
    command = _command(commands, "resume", _resume, "go on with a run as if it had never stopped")
    command.add_argument("directory", type=Path, metavar="RUN", help="the directory of the run")
    command.add_argument("--trials", type=_count, default=0, metavar="N", help="go on to N trials in all")


def _add_check(commands: Any) -> None:
    command = _command(commands, "check", _check, "show groups, frozen layers, dense and smallest reachable costs")
    _space_arguments(command)
    command.add_argument("--fidelity", action="store_true", help="show how true the evaluator's score is instead")
    command.add_argument(
        "--policies", type=int, default=_POLICIES, metavar="N", help="random policies for that (default: %(default)s)"
    )
    command.add_argument(
        "--steps", type=int, default=_STEPS, metavar="S", help="of its finetune; 0 for none (default: %(default)s)"
    )


def _add_latency(commands: Any) -> None:
    command = _command(
        commands, "latency", _latency, "time policies on a target and show how well latency is predicted"
    )
    _space_arguments(command)
    command.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw predicted against measured, and layers, as SVG"
    )


def _add_report(commands: Any) -> None:
    command = _command(commands, "report", _report, "write report.html again and show the summary")
    command.add_argument("directory", type=Path, metavar="RUN", help="the directory of the run")


def _add_apply(commands: Any) -> None:
    command = _command(commands, "apply", _apply, "prune again, from a policy.json alone")
    command.add_argument("policy", type=Path, metavar="POLICY", help="a policy.json or the directory of a run")
    command.add_argument(
        "--task", default="", metavar="NAME", help="a task in place of the policy's, such as file.py:function"
    )
    command.add_argument("--data", default="", metavar="DIR", help="the data directory")
    command.add_argument(
        "--out",
        type=Path,
        default=Path("pruned.safetensors"),
        metavar="FILE",
        help="the network (default: %(default)s)",
    )


def _add_plugins(commands: Any) -> None:
    command = _command(commands, "plugins", _plugins, "list plugins, or the settings of one")
    command.add_argument("name", nargs="?", default="", metavar="NAME", help="a plugin; its settings are shown")


def _command(commands: Any, name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.set_defaults(run=run)
    return command


def _space_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("space", metavar="SPACE", help="a search space's .toml file, or the name of a task")
    command.add_argument(
        "--budget",
        type=_ceiling,
        action="append",
        metavar="COST=CEILING",
        help="such as macs=50%% or params=1e5, in place of the file's; may be given several times",
    )
    command.add_argument("--seed", type=int, metavar="S", help="of everything random")
    command.add_argument("--data", metavar="DIR", help="the data directory")
    command.add_argument("--device", choices=("cpu", "cuda"), help="where networks run")
    command.add_argument("--target", metavar="NAME", help="where latency is measured, in place of the file's")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of trials; write a whole number from 1 on")
    return int(text)


def _ceiling(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is no budget; write COST=CEILING, such as macs=50%")
    return name, value


# search and resume


def _search(asked: argparse.Namespace) -> None:
    from autoprune import api

    built = _study(asked)
    with api.begin(built, asked.out) as opened:
        _complete(built, opened, asked.json)


def _resume(asked: argparse.Namespace) -> None:
    from autoprune import api
    from autoprune.progress import Bars

    with Bars() as bars:
        built, opened = api.reopen(asked.directory, trials=asked.trials, watch=bars.stage)
    with opened:
        _complete(built, opened, asked.json)


def _complete(built: Study, opened: Run, as_json: bool) -> None:
    from autoprune import api
    from autoprune.progress import Progress

    print(f"{opened.directory}", file=sys.stderr)
    try:
        with Progress(built, opened) as shown:
            api.complete(built, opened, watch=shown.trial, stage=shown.stage)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; go on with: autoprune resume {opened.directory}") from None
    _show_report(opened.directory, as_json)


# check


def _check(asked: argparse.Namespace) -> None:
    if asked.fidelity:
        _check_fidelity(asked)
        return
    if (asked.policies, asked.steps) != (_POLICIES, _STEPS):
        raise ConfigError("--policies and --steps are for --fidelity; write that, too")
    found = _facts(_study(asked))
    if asked.json:
        _print_json(found)
        return
    print(f"{found['name']}: {len(found['groups'])} groups, {len(found['frozen'])} frozen\n")
    words = ("name", "of", "lowest", "step", "layers")
    rows = [[group[word] for word in words[:4]] + [terminal.shortened(group["layers"])] for group in found["groups"]]
    _print_table(["group", "units", "lowest", "step", "layers"], rows)
    if found["frozen"]:
        print()
        _print_table(["frozen", "units", "reason"], [[f["name"], f["units"], f["reason"]] for f in found["frozen"]])
    print()
    costs = [[c["name"], c["dense"], c["smallest"], f"{c['smallest'] / c['dense']:.1%}"] for c in found["costs"]]
    _print_table(["cost", "dense", "smallest reachable", "of dense"], costs)


def _facts(built: Study) -> dict[str, Any]:
    """What `check` says, as plain values."""
    thinnest = built.space.thinnest()
    groups = zip(built.space, built.trace.proofs, strict=True)
    return {
        "name": built.name,
        "groups": [
            {"name": g.name, "of": g.of, "lowest": g.choices()[0], "step": g.step, "layers": g.layers, "proof": proof}
            for g, proof in groups
        ],
        "frozen": [{"name": f.name, "units": f.units, "reason": f.reason} for f in built.trace.frozen],
        "costs": [
            {"name": name, "unit": cost.unit, "dense": built.dense[name], "smallest": cost.predict(thinnest)}
            for name, cost in built.costs.items()
        ],
        "budget": [{"cost": limit.name, "asked": limit.asked, "most": limit.most} for limit in built.budget.limits],
    }


def _check_fidelity(asked: argparse.Namespace) -> None:
    from autoprune import fidelity
    from autoprune.progress import Bars

    built = _study(asked)
    with Bars() as bars:
        found = fidelity.measure(built, policies=asked.policies, steps=asked.steps, watch=bars.stage)
    if asked.json:
        _print_json({"name": built.name, "evaluator": built.config.evaluator.use, **found.plain()})
        return
    head, *rows = found.table()
    print(f"{built.name}: how true the score of evaluator {built.config.evaluator.use} is\n")
    _print_table(head, rows)
    print("\n" + "\n".join(found.remarks()))


# latency


def _latency(asked: argparse.Namespace) -> None:
    from autoprune import run

    built = _study(asked, latency=True)
    cost: Any = built.costs["latency"]
    layers = {name: cost.dense * share for name, share in cost.fit.by_layer().items()}
    if asked.plot:
        from autoprune import latency_plots

        title = f"{built.name} on {cost.target.key['runtime']}"
        run.write_text(asked.plot, latency_plots.draw(cost.points, layers, title))
    facts = {"name": built.name, "target": dict(cost.target.key), "dense_ms": cost.dense, "layers_ms": layers}
    if asked.json:
        accuracy = {name: getattr(cost.accuracy, name) for name in cost.accuracy.__slots__}
        _print_json({**facts, "blocks": cost.fit.work.blocks._asdict(), "build_seconds": cost.building, **accuracy})
        return
    print(f"{built.name}, dense: {cost.dense:.4g} ms\n")
    rows = [[name or "whatever is pruned", ms, f"{ms / cost.dense:.1%}"] for name, ms in layers.items()]
    _print_table(["layer", "ms", "share"], rows)
    print(f"\n{cost.sentence()[0].upper()}{cost.sentence()[1:]}.")
    for note in cost.notes:
        print(note)


# report and apply


def _report(asked: argparse.Namespace) -> None:
    from autoprune import report, run

    if not (asked.directory / "report.json").exists() and (asked.directory / "config.json").exists():
        raise ConfigError(f"{asked.directory} is not finished; `autoprune resume {asked.directory}` goes on with it")
    run.stored(asked.directory, "report.json")
    report.write_html(asked.directory)
    _show_report(asked.directory, asked.json)


def _apply(asked: argparse.Namespace) -> None:
    from autoprune import apply, export, plugins, policy_file

    data = str(Path(asked.data).absolute()) if asked.data else ""
    task = plugins.build("task", {"use": asked.task, **({"data": data} if data else {})}) if asked.task else None
    model = apply.apply_policy(asked.policy, task, data=data)
    export.save(model, asked.out, rebuild=policy_file.read(asked.policy).model.rebuild)
    if asked.json:
        _print_json({"policy": str(asked.policy), "model": str(asked.out)})
    else:
        print(asked.out)


def _show_report(directory: Path, as_json: bool) -> None:
    """The summary of a finished run and where its files are."""
    from autoprune import report, run

    written = run.stored(directory, "report.json")
    if as_json:
        _print_json({"directory": str(directory), **written})
        return
    head, *rows = report.table(written)
    print(f"{report.headline(written)}\n")
    _print_table(head, rows)
    if remarks := report.remarks(written):
        print("\n" + "\n".join(remarks))
    files = [path.name for path in sorted(directory.iterdir()) if path.name.startswith(("policy", "model", "report"))]
    print(f"\n{directory}/\n  " + "\n  ".join(files))


# plugins


def _plugins(asked: argparse.Namespace) -> None:
    from autoprune import plugins

    places = [(kind, name) for kind in plugins.OURS for name in plugins.names(kind)]
    if ":" in asked.name:
        raise ConfigError(
            f"{asked.name!r} is an address; `autoprune plugins` knows names: {terminal.joined(n for _, n in places)}"
        )
    chosen = [place for place in places if asked.name in ("", place[1])]
    if not chosen:
        hint = plugins.meant(asked.name, (name for _, name in places)) or "; `autoprune plugins` lists them"
        raise ConfigError(f"no plugin is called {asked.name!r}{hint}")
    described = [plugins.describe(kind, name) for kind, name in chosen]
    if asked.json:
        import dataclasses

        _print_json({"plugins": [dataclasses.asdict(plugin) for plugin in described]})
    elif asked.name:
        for plugin in described:
            _print_plugin(plugin)
    else:
        _print_table(["kind", "name", "what it is"], [[p.kind, p.name, p.summary] for p in described])


def _print_plugin(plugin: Any) -> None:
    print(f"{plugin.kind} {plugin.name}: {plugin.summary}\n")
    if not plugin.settings:
        print("It has no settings.\n")
        return
    rows = [[s.name, s.type, s.default, s.meaning] for s in plugin.settings]
    _print_table(["setting", "type", "default", "meaning"], rows)
    print()


# shared


def _study(asked: argparse.Namespace, *, latency: bool = False) -> Study:
    from autoprune import config, study
    from autoprune.progress import Bars

    over: dict[str, Any] = {
        key: {"use": value} if word == "target" else value
        for word, key in _OVER.items()
        if (value := getattr(asked, word, None)) is not None
    }
    if asked.data:
        over["task.data"] = str(Path(asked.data).absolute())  # a resumed run may be started from elsewhere
    if asked.budget:
        over["budget"] = dict(asked.budget)
    made = config.find(asked.space, over)
    controller = getattr(asked, "controller", None)
    if controller and controller != made.controller.use:
        made = config.find(asked.space, {**over, "controller": {"use": controller}})
    extra = ("latency",) if latency else ()
    with Bars() as bars:
        return study.build(made, watch=bars.stage, costs=extra)


def _print_json(value: Mapping[str, Any]) -> None:
    print(json.dumps(value, indent=2))


def _print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    print("\n".join(terminal.table(head, rows)))
