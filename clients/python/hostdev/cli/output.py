"""Where answers go: tables and trees for people, JSON and names for programs.

Colours, and lines that fit, only on a terminal. Elsewhere every row is one line, however long.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TextIO

from google.protobuf.json_format import MessageToDict, MessageToJson
from google.protobuf.message import Message
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from hostdev.cli.words import plain

_WIDE = 1_000_000

Cell = str | Text


class Output(StrEnum):
    """Form of the answers."""

    TABLE = "table"
    JSON = "json"
    NAME = "name"


def cell(value: Cell) -> Text:
    """Safe to show: no control characters, and no markup that devices could have in their names."""
    text = Text(value) if isinstance(value, str) else value.copy()
    clean = plain(text.plain)
    return text if clean == text.plain else Text(clean, style=text.style)


def table(headers: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Table:
    """Columns without a frame; a column in which every cell is empty is left out."""
    cells = [[cell(value) for value in row] for row in rows]
    shown = [index for index in range(len(headers)) if any(row[index].plain for row in cells)]
    drawn = Table(
        box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0), show_header=any(headers), show_edge=False
    )
    for index in shown:
        # Whatever else has to fold on a narrow terminal, names stay whole: they are copied.
        drawn.add_column(headers[index], overflow="fold", no_wrap=index == 0, min_width=len(headers[index]))
    for row in cells:
        drawn.add_row(*(row[index] for index in shown))
    return drawn


@dataclass(frozen=True, slots=True)
class Printer:
    """Writes answers in the chosen form to standard output, or what is drawn to another stream."""

    output: Output = Output.TABLE
    stream: TextIO | None = None

    def resource(self, message: Message, name: str, *views: RenderableType) -> None:
        """One resource."""
        match self.output:
            case Output.JSON:
                line(MessageToJson(message))
            case Output.NAME:
                line(plain(name))
            case Output.TABLE:
                self.draw(*views)

    def resources(self, messages: Iterable[Message], names: Iterable[str], view: RenderableType, none: str) -> None:
        """Many: `none` tells people that there are none."""
        shown = list(messages)
        match self.output:
            case Output.JSON:
                line(json.dumps([MessageToDict(message) for message in shown], indent=2))
            case Output.NAME:
                for name in names:
                    line(plain(name))
            case Output.TABLE:
                if shown:
                    self.draw(view)
                else:
                    note(none)

    def draw(self, *views: RenderableType) -> None:
        """Show for people, whatever form was chosen."""
        stream = self.stream or sys.stdout
        if stream.isatty():
            terminal = Console(file=stream, markup=False, highlight=False, emoji=False)
            for view in views:
                terminal.print(view)
            return
        buffer = io.StringIO()
        wide = Console(file=buffer, width=_WIDE, no_color=True, markup=False, highlight=False, emoji=False)
        for view in views:
            wide.print(view, soft_wrap=isinstance(view, str | Text))
        for drawn in buffer.getvalue().splitlines():
            print(drawn.rstrip(), file=stream)


def line(text: str) -> None:
    """One line on standard output."""
    print(text)


def json_line(message: Message) -> None:
    """A message as one line, at once: for streams."""
    print(json.dumps(MessageToDict(message), separators=(",", ":")), flush=True)


def note(text: str) -> None:
    """One line for people on standard error, beside the answer."""
    print(plain(text), file=sys.stderr, flush=True)
