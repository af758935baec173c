"""What completes the command line in a shell, printed by `autoprune completion SHELL`.

It is made of the parser itself, so that what can be written is what is offered. zsh reads the script of bash.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from autoprune import plugins
from autoprune.command import arguments
from autoprune.command.shared import print_json
from autoprune.command.terminal import show as print

_NAMES = {"--controller": "controller", "--target": "target"}  # options whose words are plugins of a kind
_BASH = """\
_autoprune() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} words=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="@COMMANDS"
    else
        case "${COMP_WORDS[1]} $before" in
@VALUES
            *) case "${COMP_WORDS[1]}" in
@OPTIONS
            esac ;;
        esac
        if [ "${word#-}" = "$word" ]; then
            words=$(printf '%s\\n' $words | grep -v '^-')
        fi
    fi
    COMPREPLY=( $(compgen -W "$words" -- "$word") )
    if [ "$COMP_CWORD" -gt 1 ] && [ "${word#-}" = "$word" ]; then
        COMPREPLY+=( $(compgen -f -- "$word") )
    fi
}
complete -o filenames -F _autoprune autoprune
"""


def command(asked: argparse.Namespace) -> None:
    """Print the script of a shell."""
    script = {"bash": _bash, "zsh": _zsh, "fish": _fish}[asked.shell]()
    if asked.json:
        print_json({"shell": asked.shell, "script": script})
        return
    print(script.rstrip("\n"))


def _commands() -> dict[str, argparse.ArgumentParser]:
    """Each command and what it takes."""
    (found,) = (a for a in arguments.parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(found.choices)


def _options(parser: argparse.ArgumentParser) -> Iterator[tuple[str, list[str], str]]:
    """Each option: how it is written, the words that may follow where these are known, and what it is for."""
    for action in parser._actions:
        for written in (one for one in action.option_strings if one.startswith("--")):
            words = list(map(str, action.choices or ()))
            words += sorted(plugins.names(_NAMES[written])) if written in _NAMES else []
            yield written, words, (action.help or "").replace("%%", "%")


def _positional(name: str, parser: argparse.ArgumentParser) -> list[str]:
    """The words that may stand in place of a command's first argument, where these are known."""
    if name in ("search", "check", "latency", "init"):
        return sorted(plugins.names("task"))
    if name == "plugins":
        return sorted({word for kind in plugins.OURS for word in plugins.names(kind)})
    return [str(one) for action in parser._actions if not action.option_strings for one in action.choices or ()]


def _bash() -> str:
    commands, values, options = _commands(), list[str](), list[str]()
    for name, parser in commands.items():
        found = list(_options(parser))
        values += [f'            "{name} {one}") words="{" ".join(words)}" ;;' for one, words, _ in found if words]
        every = " ".join([*(one for one, _, _ in found), *_positional(name, parser)])
        options.append(f'                {name}) words="{every}" ;;')
    made = _BASH.replace("@COMMANDS", " ".join(commands)).replace("@VALUES", "\n".join(values))
    return made.replace("@OPTIONS", "\n".join(options))


def _zsh() -> str:
    return f"autoload -U +X bashcompinit && bashcompinit\n{_bash()}"


def _fish() -> str:
    lines = []
    for name, parser in _commands().items():
        lines.append(f"complete -c autoprune -n __fish_use_subcommand -a {name} -d {_quoted(parser.description or '')}")
        seen = f"-n '__fish_seen_subcommand_from {name}'"
        for option, words, meaning in _options(parser):
            given = f" -x -a {_quoted(' '.join(words))}" if words else ""
            lines.append(f"complete -c autoprune {seen} -l {option[2:]}{given} -d {_quoted(meaning)}")
        if words := _positional(name, parser):
            lines.append(f"complete -c autoprune {seen} -a {_quoted(' '.join(words))}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
