"""A row of the table of options: a field of a frozen dataclass that says all there is to say about one option."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

from hostdevd.options.kinds import Kind, Plain

T = TypeVar("T")
_ROW = "row"
PREFIX = "HOSTDEVD_"
"""Of every environment variable."""


@dataclass(frozen=True, slots=True)
class Row:
    """One option.

    `name` is the field's, `key` the file's with dots for tables, `variable` the environment's. `flag` is that of
    `hostdevd serve`; one that begins with `--no-` says false; empty: there is none. `about` is one line for people,
    without a full stop. `example` stands in for a default that is unset. `reloads`: a SIGHUP applies a new value.
    """

    name: str
    kind: Kind[Any]
    default: Any
    key: str
    about: str
    flag: str = ""
    metavar: str = ""
    example: Plain = None
    reloads: bool = False

    @property
    def variable(self) -> str:
        """The environment variable."""
        return f"{PREFIX}{self.key.upper().replace('.', '_')}"

    @property
    def table(self) -> str:
        """The table of the file that the key stands in; empty for the top."""
        return self.key.rpartition(".")[0]


def option(  # noqa: PLR0913  what there is to say about an option
    default: T,
    kind: Kind[T],
    key: str,
    about: str,
    *,
    flag: str = "",
    metavar: str = "",
    example: Plain = None,
    reloads: bool = False,
) -> T:
    """A field that is an option; see `Row` for what the parts mean."""
    row = Row("", kind, default, key, about, flag, metavar or kind.metavar, example, reloads)
    field: T = dataclasses.field(default=default, metadata={_ROW: row})
    return field


def rows_of(table: type[Any]) -> tuple[Row, ...]:
    """The rows of a dataclass, all of whose fields are options, in order."""
    return tuple(dataclasses.replace(field.metadata[_ROW], name=field.name) for field in dataclasses.fields(table))
