"""Where answers go: tables and trees for people, JSON and names for programs.

Colours, and lines that fit, only on a terminal. Elsewhere every row is one line, however long.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TextIO

from google.protobuf.json_format import MessageToDict, MessageToJson
from google.protobuf.message import Message
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from hostdev.cli.words import plain

_WIDE = 1_000_000
_GAP = 2
_NARROW = 20  # fewer characters of a longer text in a column are hard to read

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


def table(headers: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Columns:
    """Columns without a frame; a column in which every cell is empty is left out."""
    cells = [[cell(value) for value in row] for row in rows]
    shown = [index for index in range(len(headers)) if any(row[index].plain for row in cells)]
    return Columns([headers[index] for index in shown], [[row[index] for index in shown] for row in cells])


@dataclass(frozen=True, slots=True)
class Columns:
    """A table that fits: where a terminal is too narrow for columns that can be read, each row is a paragraph."""

    headers: Sequence[str]
    rows: Sequence[Sequence[Text]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """How rich draws it."""
        del console
        widths = [
            max(cell_len(header), *(row[index].cell_len for row in self.rows), 0)
            for index, header in enumerate(self.headers)
        ]
        least = [*widths[:1], *(max(cell_len(header), min(width, _NARROW)) for header, width in self._folding(widths))]
        if not any(self.headers) or sum(least) + _GAP * (len(least) - 1) <= options.max_width:
            yield self._table(least if any(self.headers) else [0] * len(least))
            return
        for row in self.rows:
            yield row[0]
            facts = [
                Text.assemble((f"{header.lower()} ", "dim"), fact)
                for header, fact in zip(self.headers[1:], row[1:], strict=True)
                if fact
            ]
            yield Padding(Text("  ").join(facts), (0, 0, 0, 4))

    def _folding(self, widths: Sequence[int]) -> Iterable[tuple[str, int]]:
        return zip(self.headers[1:], widths[1:], strict=True)

    def _table(self, least: Sequence[int]) -> Table:
        drawn = Table(box=None, pad_edge=False, header_style="bold", padding=(0, _GAP, 0, 0), show_edge=False)
        drawn.show_header = any(self.headers)
        for index, header in enumerate(self.headers):
            # Whatever else has to fold on a narrow terminal, names stay whole: they are copied.
            drawn.add_column(header, overflow="fold", no_wrap=index == 0, min_width=least[index])
        for row in self.rows:
            drawn.add_row(*row)
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

    def resources(
        self, messages: Iterable[Message], names: Iterable[str], view: RenderableType, none: str | Callable[[], str]
    ) -> None:
        """Many: `none` tells people that there are none, or why."""
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
                    note(none if isinstance(none, str) else none())

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


def line(text: str, *, flush: bool = False) -> None:
    """One line on standard output."""
    print(text, flush=flush)


def compact(value: object) -> str:
    """JSON on one line."""
    return json.dumps(value, separators=(",", ":"))


def json_line(message: Message) -> None:
    """A message as one line, at once: for streams."""
    line(compact(MessageToDict(message)), flush=True)


def note(text: str) -> None:
    """One line for people on standard error, beside the answer."""
    print(plain(text), file=sys.stderr, flush=True)
