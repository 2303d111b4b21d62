"""Logs on standard error: for people on a terminal, a JSON object per line elsewhere, with levels for the journal.

No line can be forged from outside: whatever is not printable in a value, line breaks and terminal escapes among it,
is written as an escape. A line that cannot be written is lost, and nothing else: no operation fails for it.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TextIO

import structlog
from structlog.dev import ConsoleRenderer, plain_traceback
from structlog.processors import ExceptionRenderer, TimeStamper, add_log_level
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, Processor

FORMATS = ("auto", "json", "console")
LEVELS = ("debug", "info", "warning", "error", "critical")

MOST_CHARACTERS = 4096
"""Of one value; what is longer is cut. The journal splits lines at 48 KiB."""
MOST_FRAMES = 30

_NUMBERS: dict[str, int] = {name: logging.getLevelName(name.upper()) for name in LEVELS} | {"exception": logging.ERROR}
# Syslog's, as `<3>` before a line: systemd takes it off and files the line under it.
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}

Render = Callable[[EventDict], str]


@dataclass(slots=True)
class _Chosen:
    """What may change while the service runs."""

    least: int
    render: Render


_chosen = _Chosen(logging.INFO, lambda line: _json(line))  # noqa: PLW0108  it is below


def configure_logs(level: str, form: str) -> None:
    """Set up logging for the process, with what libraries and the interpreter log and warn of."""
    set_level(level)
    set_format(form)
    structlog.configure(
        processors=list(PROCESSORS),
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=lambda *_: Lines(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_Forward()], level=logging.WARNING, force=True)
    logging.captureWarnings(capture=True)
    log = structlog.get_logger()
    sys.excepthook = lambda *exc_info: log.critical("an unexpected end", exc_info=exc_info)
    threading.excepthook = lambda told: log.critical(
        "a thread ended unexpectedly",
        thread=told.thread.name if told.thread else "",
        exc_info=(told.exc_type, told.exc_value, told.exc_traceback),
    )


def set_level(level: str) -> None:
    """Drop lines below this level from now on."""
    _chosen.least = _number(level)


def set_format(form: str) -> None:
    """Write lines in this form from now on; `auto` is for people on a terminal, and JSON elsewhere."""
    terminal = sys.stderr.isatty()
    is_console = form == "console" or (form == "auto" and terminal)
    render = _console(colors=terminal) if is_console else _json
    _chosen.render = _with_priority(render) if _is_journal(sys.stderr) else render


def _number(level: str) -> int:
    return _NUMBERS[level]


def _drop_below(_: object, method: str, line: EventDict) -> EventDict:
    if _number(method) < _chosen.least:
        raise structlog.DropEvent
    return line


def _render(_: object, __: str, line: EventDict) -> str:
    return _chosen.render(line)


PROCESSORS: tuple[Processor, ...] = (
    _drop_below,
    structlog.contextvars.merge_contextvars,
    add_log_level,
    TimeStamper(fmt="iso", utc=True),
    _render,
)

# --- forms -----------------------------------------------------------------------------------------------

# Without the values of variables, which may be anything.
_structured = ExceptionRenderer(ExceptionDictTransformer(show_locals=False, max_frames=MOST_FRAMES))
_as_text = ExceptionRenderer()


def _json(line: EventDict) -> str:
    line = _structured(None, "", line)
    first = {key: line.pop(key) for key in ("timestamp", "level", "event") if key in line}
    return json.dumps(clean({**first, **line}), ensure_ascii=False)


def _console(*, colors: bool) -> Render:
    renderer = ConsoleRenderer(colors=colors, exception_formatter=plain_traceback)

    def render(line: EventDict) -> str:
        line = _as_text(None, "", line)
        text = line.pop("exception", "")
        line = clean(line)
        if text:
            # Pushed in: what stands at the beginning of a line is a line of ours.
            line["exception"] = "\n".join(f"    {clean(one)}" for one in text.split("\n"))
        return renderer(None, "", line)

    return render


def _with_priority(render: Render) -> Render:
    def prefixed(line: EventDict) -> str:
        return f"<{_PRIORITIES.get(line['level'], 6)}>{render(line)}"

    return prefixed


def clean(value: Any) -> Any:
    """A value as texts, numbers, lists and tables, and every text of it printable and not too long."""
    match value:
        case str():
            cut = value if len(value) <= MOST_CHARACTERS else f"{value[:MOST_CHARACTERS]}..."
            return cut if cut.isprintable() else "".join(map(_escaped, cut))
        case Mapping():
            return {clean(str(key)): clean(one) for key, one in value.items()}
        case list() | tuple() | set() | frozenset():
            return [clean(one) for one in value]
        case None | bool() | int():
            return value
        case float() if math.isfinite(value):
            return value
    return clean(str(value))


def _escaped(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


# --- where to, where from --------------------------------------------------------------------------------


class Lines:
    """Writes whole lines to a stream, from any thread; what structlog takes for a logger."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._turn = threading.Lock()

    def msg(self, line: str) -> None:
        """Write a line."""
        with self._turn, suppress(OSError, ValueError):  # nobody reads it, or it is closed
            self._stream.write(f"{line}\n")
            self._stream.flush()

    debug = info = warning = error = critical = msg


class _Forward(logging.Handler):
    """Lines of the standard library's logging."""

    def emit(self, record: logging.LogRecord) -> None:
        """Say it as a line of ours."""
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001  a mistake in a call of a library's
            text = str(record.msg)
        level = max((name for name in LEVELS if _number(name) <= record.levelno), key=_number, default="debug")
        exc_info = record.exc_info if record.exc_info and record.exc_info[0] else None
        getattr(structlog.get_logger(), level)(text.rstrip(), logger=record.name, exc_info=exc_info)


def _is_journal(stream: TextIO) -> bool:
    """Whether the stream is the one to the journal that systemd tells of."""
    with suppress(OSError, ValueError):
        there = os.fstat(stream.fileno())
        return os.environ.get("JOURNAL_STREAM") == f"{there.st_dev}:{there.st_ino}"
    return False
