"""What can be written on the command line: the commands and their arguments."""

from __future__ import annotations

import argparse
import contextlib
import math
import tomllib
from pathlib import Path
from typing import Any, NoReturn

from autoprune import __version__

FIDELITY = (40, 50)  # policies and steps of check --fidelity, unless others are asked for


class _Parser(argparse.ArgumentParser):
    """One line for a wrong argument, too, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


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
        "--trials", type=_count, metavar="N", help="policies to evaluate (default: the file's, else 60)"
    )
    command.add_argument("--time", metavar="SPAN", help="search for so long, such as 90s, 10m or 1h, in place of that")
    command.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="where runs lie (default: runs)")
    command.add_argument(
        "--epochs", type=_passes, metavar="E", help="of the finetune in the end, in place of the file's; 0 for none"
    )
    command.add_argument("--no-finetune", action="store_true", help="the same as --epochs 0")
    _worker_arguments(command)


def _add_resume(commands: Any) -> None:
    command = _command(commands, "resume", "go on with a run as if it had never stopped")
    command.add_argument("directory", type=Path, metavar="RUN", help="the directory of the run")
    command.add_argument("--trials", type=_count, default=0, metavar="N", help="go on to N trials in all")
    command.add_argument(
        "--time", default="", metavar="SPAN", help="go on until so much was searched in all, such as 10m"
    )
    command.add_argument(
        "--lr",
        type=_rate,
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
        type=_points,
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
        type=_ceiling,
        action="append",
        metavar="COST=CEILING",
        help="of a run, the best trial that costs no more, such as macs=40%%; may be given several times",
    )
    command.add_argument(
        "--task", default="", metavar="NAME", help="a task in place of the policy's, such as file.py:function"
    )
    command.add_argument("--data", default="", metavar="DIR", help="where the task's data set lies")
    command.add_argument(
        "--no-finetune", action="store_true", help="prune and recover only, without the search's finetune"
    )
    command.add_argument("--epochs", type=_passes, metavar="E", help="of that finetune, in place of the search's")
    command.add_argument("--lr", type=float, metavar="LR", help="its learning rate, in place of the search's")
    command.add_argument(
        "--out",
        type=Path,
        default=Path("pruned.safetensors"),
        metavar="FILE",
        help="where the network is written (default: %(default)s)",
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
        "--workers", type=_staff, metavar="N", help="evaluate with N processes on this machine (extra `cluster`)"
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


def _space_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "space",
        metavar="SPACE",
        help="a search space's .toml file; or a task for its defaults, a name or file.py:function",
    )
    command.add_argument(
        "--budget",
        type=_ceiling,
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
        type=_setting,
        action="append",
        metavar="TABLE.KEY=VALUE",
        help="any other setting of a search space, such as finetune.epochs=1; may be given several times",
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of trials; write a whole number from 1 on")
    return int(text)


def _passes(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= (epochs := float(text)) < math.inf:  # how many there may be is said by the config
            return epochs
    raise argparse.ArgumentTypeError(f"{text!r} is no number of epochs; write a number from 0 on, such as 2")


def _points(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= (points := float(text)) <= 100:
            return points
    raise argparse.ArgumentTypeError(f"{text!r} is no number of points; write a number from 0 to 100, such as 2")


def _staff(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of workers; write a whole number from 1 to 1024")
    return int(text)


def _rate(text: str) -> float:
    with contextlib.suppress(ValueError):
        if (rate := float(text)) > 0:  # how large it may be is said by the config
            return rate
    raise argparse.ArgumentTypeError(f"{text!r} is no learning rate; write a number above 0, such as 0.01")


def _setting(text: str) -> tuple[str, Any]:
    """A dotted key and its value, written as in TOML; a text may do without quotes."""
    key, equals, value = text.partition("=")
    table, dot, name = key.strip().partition(".")
    if not (table and dot and name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is no setting; write TABLE.KEY=VALUE, such as finetune.epochs=1")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def _ceiling(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is no budget; write COST=CEILING, such as macs=50%")
    return name, value
