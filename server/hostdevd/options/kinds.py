"""What the value of an option may be: how it is read from TOML and from text, and how it is shown.

Reading raises `ValueError` with what would be right, "must be true or false"; who reads knows where the value stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

T_co = TypeVar("T_co", covariant=True)
Plain = str | int | float | bool | list[str] | None
"""A value as TOML and JSON have it; None is unset."""


def _plain(value: Any) -> Plain:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


@dataclass(frozen=True, slots=True)
class Kind(Generic[T_co]):
    """One kind of value.

    `read` takes what a TOML file has, `parse` the text of a variable or a flag; `plain` is the way back.
    `is_many` is for flags that may be given again; `bare` is the value of a flag without its argument, where that is
    allowed. An empty variable is unset where `empty_is_unset`; else `parse` judges it.
    """

    read: Callable[[object], T_co]
    parse: Callable[[str], T_co]
    metavar: str = "TEXT"
    plain: Callable[[Any], Plain] = _plain
    choices: tuple[str, ...] = ()
    is_many: bool = False
    bare: Plain = None
    empty_is_unset: bool = False


def _no_check(value: str) -> None:
    """Whatever is printable will do."""


def _text(value: object, check: Callable[[str], object] = _no_check) -> str:
    if not isinstance(value, str):
        raise ValueError("must be text")  # noqa: TRY004  who reads catches ValueError
    if not value:
        raise ValueError("must not be empty; leave it out instead")
    if not value.isprintable():
        raise ValueError("must be printable, without line breaks")
    check(value)
    return value


def text(metavar: str = "TEXT", check: Callable[[str], object] = _no_check) -> Kind[str]:
    """Printable text, not empty; `check` raises ValueError for what else is wrong with it."""

    def read(value: object) -> str:
        return _text(value, check)

    return Kind(read, read, metavar)


def _read_path(value: object) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("must be a path")
    return Path(value)


FILE = Kind(_read_path, _read_path, "FILE")
DIRECTORY = Kind(_read_path, _read_path, "DIR")
"""Relative ones begin at the working directory of the service. Whether it is there is seen when it is used."""


_WORDS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def _read_switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")  # noqa: TRY004  the same
    return value


def _parse_switch(word: str) -> bool:
    return _read_switch(_WORDS.get(word.lower()))


SWITCH = Kind(_read_switch, _parse_switch, "true|false")


def integer(low: int, high: int, metavar: str = "NUMBER") -> Kind[int]:
    """A whole number, bounds included."""

    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    def parse(word: str) -> int:
        # Digits only: int() takes "1_000" and the digits of every script, too.
        digits = word.removeprefix("-")
        fits = digits.isascii() and digits.isdecimal() and len(digits) <= 19  # noqa: PLR2004  of 64 bits
        return read(int(word) if fits else None)

    return Kind(read, parse, metavar)


def seconds(low: float, high: float) -> Kind[float]:
    """A time in seconds, with fractions, bounds included."""

    def read(value: object) -> float:
        known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not isinstance(value, int | float) or not known or not low <= value <= high:
            raise ValueError(f"must be seconds from {low:g} to {high:g}")
        return float(value)

    def parse(word: str) -> float:
        try:
            return read(float(word))
        except ValueError:
            return read(None)

    return Kind(read, parse, "SECONDS")


def texts(
    metavar: str, of: str, check: Callable[[str], object] = _no_check, *, may_be_empty: bool = False
) -> Kind[tuple[str, ...]]:
    """A list of texts without commas, "a list of `of`"; in a variable by commas, as a flag once for each."""

    def read(value: object) -> tuple[str, ...]:
        if not isinstance(value, list | tuple) or not (value or may_be_empty):
            raise ValueError(f"must be a list of {of}")
        try:
            return tuple(_text(one, check) for one in value)
        except ValueError as error:
            raise ValueError(f"must be a list of {of}, and each {error}") from error

    def parse(words: str) -> tuple[str, ...]:
        return read([word.strip() for word in words.split(",") if word.strip()])

    return Kind(read, parse, metavar, is_many=True)


def _read_mode(value: object) -> int:
    # A TOML integer could be meant decimal or octal: 660 and 0o660 differ, and one of them is open to everybody.
    octal = isinstance(value, str) and 3 <= len(value) <= 4 and set(value) <= set("01234567")  # noqa: PLR2004  digits
    if not isinstance(value, str) or not octal:
        raise ValueError('must be octal digits as text, such as "0660"')
    return int(value, 8)


MODE = Kind(_read_mode, _read_mode, "MODE", plain=lambda mode: f"{mode:04o}")
"""Permission bits of a file."""


def choice(words: Sequence[str]) -> Kind[str]:
    """One of some words."""

    def read(value: object) -> str:
        if not isinstance(value, str) or value not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return value

    return Kind(read, read, "|".join(words), choices=tuple(words))


def switch_or_file(when_true: str) -> Kind[str | None]:
    """A path; or true, which is `when_true`; or false, which is None. A flag without an argument is true."""

    def read(value: object) -> str | None:
        if isinstance(value, bool):
            return when_true if value else None
        if not isinstance(value, str) or not value or "\0" in value:
            raise ValueError("must be true, false or a path")
        return value

    def parse(word: str) -> str | None:
        return read(_WORDS.get(word.lower(), word))

    def plain(value: str | None) -> Plain:
        return True if value == when_true else value

    return Kind(read, parse, "FILE", plain=plain, bare=True, empty_is_unset=True)
