"""What can be written on the command line: the commands and their arguments."""

from __future__ import annotations

import argparse
import difflib
import re
from pathlib import Path
from typing import Any, NoReturn

from autoprune import __version__
from autoprune.command import written

FIDELITY = (40, 50)  # policies and steps of check --fidelity, unless others are asked for


class _Parser(argparse.ArgumentParser):
    """One line for a wrong argument, too, without the usage before it, and with the word that was likely meant."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}{self._meant(message)}\n")

    def _meant(self, message: str) -> str:
        """A known option or command that is much like the first word of `message` that is none; "" without one."""
        said = re.search(r"unrecognized arguments: (--[\w-]+)|invalid choice: '([\w-]+)' \(choose", message)
        near = difflib.get_close_matches(said[1] or said[2], sorted(_words(self)), n=1) if said else []
        return f"; did you mean {near[0]}?" if near else ""


def _words(of: argparse.ArgumentParser) -> set[str]:
    """Every option and command of a parser and of those below it."""
    found = set[str]()
    for action in of._actions:
        found |= {option for option in action.option_strings if option.startswith("--")}
        if isinstance(action, argparse._SubParsersAction):
            found |= {*action.choices}.union(*map(_words, action.choices.values()))
    return found


def parser() -> argparse.ArgumentParser:
    """Of the whole command line; what it gives says under `command` which one was asked for."""
    made = _Parser(
        prog="autoprune",
        description="Finds how much to prune each layer of a trained network, so that it meets a budget "
        "and loses the least quality.",
        epilog="A search space is a TOML file; a task stands for its defaults: the name of a built-in one, or "
        "file.py:function. `autoprune plugins` lists all that can be chosen in one. Exit status: 0 done; 2 something "
        "is wrong, which one line on stderr says; 128 + n stopped by signal n (130: Ctrl-C); 1 a mistake of autoprune.",
    )
    made.add_argument("--version", action="version", version=f"autoprune {__version__}")
    commands = made.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="command")
    _add_search(commands)
    _add_resume(commands)
    _add_init(commands)
    _add_check(commands)
    _add_latency(commands)
    _add_report(commands)
    _add_compare(commands)
    _add_apply(commands)
    _add_worker(commands)
    _add_policy(commands)
    _add_transfer(commands)
    _add_learn(commands)
    _add_plugins(commands)
    _add_completion(commands)
    return made


def _add_search(commands: Any) -> None:
    command = _command(commands, "search", "find a policy, finetune, export, report")
    _space_arguments(command)
    command.add_argument(
        "--controller", metavar="NAME", help="who proposes policies, in place of the file's; else evolution"
    )
    command.add_argument(
        "--trials", type=written.count, metavar="N", help="policies to evaluate (default: the file's, else 60)"
    )
    command.add_argument("--time", metavar="SPAN", help="search for so long, such as 90s, 10m or 1h, in place of that")
    command.add_argument(
        "--warm-start",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FROM",
        help="begin with what others have found: policy files, directories of runs, what `learn` wrote, agents",
    )
    _end_arguments(command)


def _end_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="where runs lie (default: runs)")
    command.add_argument(
        "--epochs",
        type=written.passes,
        metavar="E",
        help="of the final finetune, in place of the file's; 0 for none",
    )
    command.add_argument("--no-finetune", action="store_true", help="the same as --epochs 0")
    _worker_arguments(command)


def _add_resume(commands: Any) -> None:
    command = _command(commands, "resume", "go on with a run as if it had never stopped")
    command.add_argument("directory", type=Path, metavar="RUN", help="the directory of the run")
    command.add_argument("--trials", type=written.count, default=0, metavar="N", help="go on to N trials in all")
    command.add_argument(
        "--time", default="", metavar="SPAN", help="go on until so much was searched in all, such as 10m"
    )
    command.add_argument(
        "--lr",
        type=written.rate,
        default=0.0,
        metavar="RATE",
        help="finetune at this learning rate, again if need be",
    )
    _worker_arguments(command)
    _trust_argument(command)


def _add_init(commands: Any) -> None:
    command = _command(commands, "init", "write a search space for a task, after a look at its network")
    command.add_argument("task", metavar="TASK", help="a task: the name of a built-in one, or file.py:function")
    command.add_argument(
        "--out", type=Path, metavar="FILE", help="what is written (default: the task's name with .toml; never replaced)"
    )
    command.add_argument("--data", metavar="DIR", help="where the task's data set lies")
    command.add_argument(
        "--target", metavar="NAME", help="budget latency there, in multiples of channels that are found by timing"
    )


def _add_check(commands: Any) -> None:
    command = _command(commands, "check", "show groups, frozen layers, dense and smallest reachable costs")
    _space_arguments(command)
    command.add_argument(
        "--calibrate", action="store_true", help="time again which precision this machine is fast in, and keep that"
    )
    command.add_argument(
        "--fidelity", action="store_true", help="show how true the evaluator's score is, in place of that"
    )
    command.add_argument(
        "--advise", action="store_true", help="measure for a minute, and say what to take for this network, and why"
    )
    command.add_argument(
        "--within",
        type=written.points,
        default=2.0,
        metavar="POINTS",
        help="with --advise, what a network may lose (default: %(default)s)",
    )
    command.add_argument(
        "--policies",
        type=int,
        default=FIDELITY[0],
        metavar="N",
        help="with --fidelity, random policies (default: %(default)s)",
    )
    command.add_argument(
        "--steps",
        type=int,
        default=FIDELITY[1],
        metavar="S",
        help="with --fidelity, of its finetune; 0 for none (default: %(default)s)",
    )


def _add_latency(commands: Any) -> None:
    command = _command(commands, "latency", "time policies on a target and show how well latency is predicted")
    _space_arguments(command)
    command.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw predicted against measured, and layers, as SVG"
    )


def _add_report(commands: Any) -> None:
    command = _command(commands, "report", "write report.html again and show the summary")
    command.add_argument("directory", type=Path, metavar="RUN", help="the directory of the run")


def _add_compare(commands: Any) -> None:
    command = _command(commands, "compare", "one page for several runs, with means and spreads")
    command.add_argument("directories", type=Path, nargs="+", metavar="RUN", help="the directories of finished runs")
    command.add_argument(
        "--out", type=Path, default=Path("compare.html"), metavar="FILE", help="the page (default: %(default)s)"
    )


def _add_apply(commands: Any) -> None:
    command = _command(commands, "apply", "prune and finetune again, from a policy.json alone")
    command.add_argument("policy", type=Path, metavar="POLICY", help="a policy.json or the directory of a run")
    command.add_argument(
        "--at",
        type=written.ceiling,
        action="append",
        metavar="COST=CEILING",
        help="of a run, the best trial that costs no more, such as macs=40%%; may be given several times",
    )
    command.add_argument(
        "--budget",
        type=written.ceiling,
        action="append",
        metavar="COST=CEILING",
        help="of a run, a new policy from what it has learnt, scored once, such as macs=30%% or latency=2ms",
    )
    command.add_argument("--target", default="", metavar="NAME", help="with --budget, where latency is measured")
    command.add_argument(
        "--task", default="", metavar="NAME", help="a task in place of the policy's, such as file.py:function"
    )
    command.add_argument("--data", default="", metavar="DIR", help="where the task's data set lies")
    command.add_argument(
        "--no-finetune", action="store_true", help="prune and recover only, without the search's finetune"
    )
    command.add_argument("--epochs", type=written.passes, metavar="E", help="of it, in place of the search's")
    command.add_argument("--lr", type=float, metavar="LR", help="its learning rate, in place of the search's")
    command.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="where the network is written (default: pruned.safetensors, unless that is there)",
    )
    _trust_argument(command)


def _add_worker(commands: Any) -> None:
    command = _command(
        commands, "worker", "say whether this machine, or a cluster's workers, can evaluate for a search"
    )
    _space_arguments(command)
    command.add_argument(
        "--check", action="store_true", required=True, help="build the study, evaluate one policy, and show the facts"
    )
    command.add_argument(
        "--cluster", metavar="ADDRESS", help="ask every worker of this cluster, in place of this machine"
    )


def _add_policy(commands: Any) -> None:
    command = _command(commands, "policy", "show what a policy.json says, or whether it is one")
    command.add_argument(
        "action", choices=("show", "validate"), help="show what it says, or say only whether it is one"
    )
    command.add_argument("file", type=Path, metavar="FILE", help="a policy.json or the directory of a run")
    command.add_argument(
        "--as",
        dest="form",
        choices=("torch-pruning",),
        help="show it in the words of another tool: the pruning_ratio_dict of Torch-Pruning, by names of layers",
    )


def _add_transfer(commands: Any) -> None:
    command = _command(commands, "transfer", "map a policy to another network, finetune, export, report")
    command.add_argument(
        "policy",
        type=Path,
        metavar="POLICY",
        help="a policy.json, the directory of a run, what `learn` wrote, or an agent.safetensors",
    )
    _space_arguments(command, "--to")
    _end_arguments(command)


def _add_learn(commands: Any) -> None:
    command = _command(commands, "learn", "learn from finished runs what other searches can begin with")
    command.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="the directories of runs")
    command.add_argument(
        "--out",
        type=Path,
        default=Path("prior.json"),
        metavar="FILE",
        help="where it is written, for --warm-start (default: %(default)s)",
    )


def _add_plugins(commands: Any) -> None:
    command = _command(commands, "plugins", "list plugins, or the settings of one")
    command.add_argument("name", nargs="?", default="", metavar="NAME", help="a plugin; its settings are shown")


def _add_completion(commands: Any) -> None:
    command = _command(commands, "completion", "print what completes this command line in a shell")
    command.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell")


def _command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.add_argument("--quiet", action="store_true", help="show no progress; results and errors only")
    command.add_argument("--events", type=Path, metavar="FILE", help="add progress to FILE as JSON lines")
    command.add_argument("--verbose", action="store_true", help="print the traceback of an error, too")
    return command


def _worker_arguments(command: Any) -> None:
    who = command.add_mutually_exclusive_group()
    who.add_argument(
        "--workers", type=written.staff, metavar="N", help="evaluate with N processes on this machine (extra `cluster`)"
    )
    who.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="evaluate with a Dask cluster: tcp://HOST:PORT, or a scheduler file (.json)",
    )


def _trust_argument(command: Any) -> None:
    command.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="code of others that may be run from now on, as the error that asks for it writes it; several times",
    )


def _space_arguments(command: argparse.ArgumentParser, name: str = "space") -> None:
    option: dict[str, Any] = {"dest": "space", "required": True} if name.startswith("-") else {}
    command.add_argument(
        name,
        **option,
        metavar="SPACE",
        help="a search space's .toml file; or a task for its defaults, a name or file.py:function",
    )
    command.add_argument(
        "--budget",
        type=written.ceiling,
        action="append",
        metavar="COST=CEILING",
        help="such as macs=50%% or params=1e5, in place of the file's; may be given several times",
    )
    command.add_argument("--seed", type=int, metavar="S", help="of everything random (default: the file's, else 0)")
    command.add_argument("--data", metavar="DIR", help="where the task's data set lies")
    command.add_argument("--device", choices=("cpu", "cuda"), help="where networks run (default: the file's, else cpu)")
    command.add_argument("--target", metavar="NAME", help="where latency is measured, in place of the file's")
    command.add_argument(
        "--set",
        type=written.setting,
        action="append",
        metavar="TABLE.KEY=VALUE",
        help="any other setting of a search space, such as finetune.epochs=1; may be given several times",
    )
