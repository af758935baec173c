"""What can be written on the command line: the commands and their arguments."""

from __future__ import annotations

import argparse
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
        epilog="A search space is a TOML file; the name of a built-in task stands for its defaults.",
    )
    made.add_argument("--version", action="version", version=f"autoprune {__version__}")
    commands = made.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="command")
    _add_search(commands)
    _add_resume(commands)
    _add_check(commands)
    _add_latency(commands)
    _add_report(commands)
    _add_apply(commands)
    _add_plugins(commands)
    return made


def _add_search(commands: Any) -> None:
    command = _command(commands, "search", "find a policy, finetune, export, report")
    _space_arguments(command)
    command.add_argument("--controller", metavar="NAME", help="who proposes policies, in place of the file's")
    command.add_argument("--trials", type=_count, metavar="N", help="policies to evaluate")
    command.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="where runs lie (default: runs)")


def _add_resume(commands: Any) -> None:
    command = _command(commands, "resume", "go on with a run as if it had never stopped")
    command.add_argument("directory", type=Path, metavar="RUN", help="the directory of the run")
    command.add_argument("--trials", type=_count, default=0, metavar="N", help="go on to N trials in all")
    _trust_argument(command)


def _add_check(commands: Any) -> None:
    command = _command(commands, "check", "show groups, frozen layers, dense and smallest reachable costs")
    _space_arguments(command)
    command.add_argument("--fidelity", action="store_true", help="show how true the evaluator's score is instead")
    command.add_argument(
        "--policies", type=int, default=FIDELITY[0], metavar="N", help="random policies for that (default: %(default)s)"
    )
    command.add_argument(
        "--steps", type=int, default=FIDELITY[1], metavar="S", help="of its finetune; 0 for none (default: %(default)s)"
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


def _add_apply(commands: Any) -> None:
    command = _command(commands, "apply", "prune again, from a policy.json alone")
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
    command.add_argument("--data", default="", metavar="DIR", help="the data directory")
    command.add_argument(
        "--out",
        type=Path,
        default=Path("pruned.safetensors"),
        metavar="FILE",
        help="the network (default: %(default)s)",
    )
    _trust_argument(command)


def _add_plugins(commands: Any) -> None:
    command = _command(commands, "plugins", "list plugins, or the settings of one")
    command.add_argument("name", nargs="?", default="", metavar="NAME", help="a plugin; its settings are shown")


def _command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.add_argument("--verbose", action="store_true", help="print the traceback of an error, too")
    return command


def _trust_argument(command: Any) -> None:
    command.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="code of others that may be run from now on, as the error that asks for it writes it; several times",
    )


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
