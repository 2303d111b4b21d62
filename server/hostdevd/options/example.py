"""What is written from the table: the commented file of all options, and the documentation's list."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence

from hostdevd.options.kinds import SWITCH, Plain
from hostdevd.options.rows import Row

_WIDTH = 110


def example_file(heading: str, rows: Sequence[Row]) -> str:
    """Every option with its default, commented out, below what it means; tables in the order of the rows."""
    lines = [*_comment(heading)]
    # Keys of the top come first: below a table's heading they would be the table's.
    for table in sorted({row.table: None for row in rows}, key=bool):
        if table:
            lines += ["", f"[{table}]"]
        for row in rows:
            if row.table == table:
                lines += ["", *_option(row)]
    return "\n".join(lines) + "\n"


def _option(row: Row) -> Iterator[str]:
    choices = f": {', '.join(row.kind.choices)}" if row.kind.choices else ""
    yield from _comment(f"{row.about}{choices}.")
    reads = "; a SIGHUP applies it" if row.reloads else ""
    yield from _comment(f"{', '.join(filter(None, (row.flag, row.variable)))}{reads}")
    default = row.kind.plain(row.default)
    key = row.key.rpartition(".")[2]
    if default is None:
        yield from _comment("Not set by default; an example:")
        yield f"#{key} = {literal(row.example)}"
    else:
        yield f"#{key} = {literal(default)}"


def _comment(text: str) -> Iterator[str]:
    for line in text.split("\n"):
        yield from textwrap.wrap(line, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def literal(value: Plain) -> str:
    """A value as TOML writes it."""
    if isinstance(value, list):
        return f"[{', '.join(literal(one) for one in value)}]"
    # JSON's texts, numbers and truth values are TOML's, as long as nothing is unprintable.
    return json.dumps(value, ensure_ascii=False)


def markdown(rows: Sequence[Row]) -> str:
    """A table for the documentation."""
    lines = ["| flag of `serve` | variable | key in the file | default | |", "|---|---|---|---|---|"]
    lines.append(
        "| `--config FILE` | `HOSTDEVD_CONFIG` | | `/etc/hostdevd/hostdevd.toml`, where it is | The file itself |"
    )
    for row in rows:
        argument = "" if row.kind is SWITCH else row.metavar
        flag = f"{row.flag} {argument if row.kind.bare is None else f'[{argument}]'}".strip()
        given = f"`{flag}`" if row.flag else ""
        default = row.kind.plain(row.default)
        shown = "not set" if default is None else f"`{literal(default)}`"
        reads = "; a SIGHUP applies it" if row.reloads else ""
        row_cells = (given, f"`{row.variable}`", f"`{row.key}`", shown, f"{row.about}{reads}")
        cells = [cell.replace("|", "\\|") for cell in row_cells]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
