"""The commented file of all options, from the table."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence

from hostdevd.options.kinds import Plain
from hostdevd.options.rows import Row

_WIDTH = 100


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
    yield from _comment(f"{row.about}.")
    reads = "; applied by a SIGHUP" if row.reloads else ""
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
