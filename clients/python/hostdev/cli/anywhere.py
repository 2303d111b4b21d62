"""Global options that stand after the command: on the line that is run, and on the one that a shell completes."""

from __future__ import annotations

import shlex
from collections.abc import MutableMapping, Sequence
from contextlib import suppress

from hostdev.cli.output import Output

VALUED = ("--address", "--output", "-o", "--tls-ca", "--tls-cert", "--tls-key", "--tls-server-name")
FLAGS = ("--version", "--install-completion", "--show-completion")


def with_globals_first(argv: Sequence[str]) -> list[str]:
    """Let `-o json` and all other global options stand anywhere: no command has options of these names."""
    moved: list[str] = []
    rest: list[str] = []
    waiting = iter(argv)
    for argument in waiting:
        if argument == "--":
            rest += [argument, *waiting]
        elif argument in VALUED:
            moved += [argument, *(value for value in (next(waiting, None),) if value is not None)]
        elif (
            argument in FLAGS
            or argument.partition("=")[0] in VALUED
            or (argument.startswith("-o") and argument[2:] in list(Output))
        ):
            moved.append(argument)
        else:
            rest.append(argument)
    return moved + rest


def complete_with_globals_first(environment: MutableMapping[str, str]) -> None:
    """The same for the words that a shell hands over; the one that is being completed stays the last."""
    if not environment.get("_HOSTDEVCTL_COMPLETE", "").startswith("complete_"):
        return
    with suppress(KeyError, ValueError):  # half a quotation, say: then it is as it is
        if "COMP_WORDS" in environment:
            words = shlex.split(environment["COMP_WORDS"])
            position = int(environment["COMP_CWORD"])
            before = _glued(words[1:position])
            environment["COMP_CWORD"] = str(len(before) + 1)
            environment["COMP_WORDS"] = shlex.join([*words[:1], *with_globals_first(before), *words[position:]])
        else:
            line = environment["_TYPER_COMPLETE_ARGS"]
            words = shlex.split(line)
            last = [] if line.endswith(" ") else [words.pop()]
            ordered = shlex.join([*words[:1], *with_globals_first(words[1:]), *last])
            environment["_TYPER_COMPLETE_ARGS"] = ordered if last else f"{ordered} "


def _glued(words: Sequence[str]) -> list[str]:
    """Bash takes `unix:/path` for three words and `--address=x` for three, too."""
    glued: list[str] = []
    open_ended = False
    for word in words:
        if glued and (open_ended or word in {":", "="}):
            glued[-1] += word
        else:
            glued.append(word)
        open_ended = word in {":", "="}
    return glued
