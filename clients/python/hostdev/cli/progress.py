"""Waiting, made visible on a terminal; standard output stays clean."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext

from rich.console import Console
from rich.text import Text

from hostdev.cli.words import plain


def waiting(text: str) -> AbstractContextManager[object]:
    """A spinner beside `text` while the block runs; nothing where nobody looks."""
    if not sys.stderr.isatty():
        return nullcontext()
    return Console(stderr=True).status(Text(plain(text)))
