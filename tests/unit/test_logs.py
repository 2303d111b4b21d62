"""Log lines: their forms, their levels, and that nobody writes one but the service."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import pytest
import structlog

from hostdevd.ops.logs import FORMATS, LEVELS, MOST_CHARACTERS, Lines, clean, configure_logs, set_format, set_level

HOSTILE = 'a\n<0>{"level": "critical"}\r\x1b]0;title\x07\x1b[31m\x9b1m\x7f\u202e\u2028\udc80\0'


HIDDEN = "hunter-2"


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    """The error with a traceback, in whose frame there is something to hide."""
    hidden = HIDDEN
    try:
        raise error from cause  # noqa: TRY301  in this very frame
    except Exception as same:  # noqa: BLE001  whatever it was given
        assert hidden
        return same


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def begin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Configures logs to a stream; what was before is put back."""
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level, hooks = list(root.handlers), root.level, (sys.excepthook, threading.excepthook)
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)

    def begun(stream: TextIO, form: str = "auto", level: str = "info") -> Any:
        monkeypatch.setattr(sys, "stderr", stream)
        configure_logs(level, form)
        structlog.configure(cache_logger_on_first_use=False)
        return structlog.get_logger()

    yield begun
    structlog.configure(**before)
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level = handlers, level
    sys.excepthook, threading.excepthook = hooks


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().split("\n") if line]


def test_a_line_is_a_json_object_with_time_level_and_text_first(begin: Callable[..., Any]) -> None:
    stream = io.StringIO()
    begin(stream).warning("gone", vm="alpha", count=3, names=("ä", "b"), nothing=None, path=Path("/a"))
    (line,) = lines(stream)
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert line["timestamp"].endswith("Z")
    del line["timestamp"]
    given = {"vm": "alpha", "count": 3, "names": ["ä", "b"], "nothing": None, "path": "/a"}
    assert line == {"level": "warning", "event": "gone", **given}


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_no_value_begins_a_line_or_commands_a_terminal(
    begin: Callable[..., Any], form: str, stream: Callable[[], io.StringIO]
) -> None:
    to = stream()
    log = begin(to, form)
    with structlog.contextvars.bound_contextvars(vm=HOSTILE):
        log.info("x", name=HOSTILE, many=[HOSTILE], table={HOSTILE: HOSTILE}, odd=HOSTILE.encode("utf-8", "replace"))
        log.error("y", exc_info=raised(ValueError(HOSTILE)))
    written = to.getvalue()
    own = set("\x1b[0123456789m\n")  # of the console's colours
    assert all(character.isprintable() or character in own for character in written)
    assert "\x1b]" not in written
    assert "\x1b[31m" not in written.replace("\x1b[31m\x1b[1m", "")  # an error's own colour goes with bold
    for line in written.split("\n"):
        # A line is one of ours, or pushed in below it.
        assert not line or line.startswith(("{", "20", "\x1b[2m20", "    ")), line


def test_an_exception_is_structured_and_shows_no_values(begin: Callable[..., Any]) -> None:
    stream = io.StringIO()
    log = begin(stream)
    cause = raised(KeyError("inner"))
    log.error("failed", exc_info=raised(RuntimeError("outer"), cause))
    (line,) = lines(stream)
    assert [one["exc_type"] for one in line["exception"]] == ["RuntimeError", "KeyError"]
    assert line["exception"][0]["frames"][-1]["filename"] == __file__
    assert HIDDEN not in stream.getvalue()


@pytest.mark.parametrize("form", FORMATS)
def test_a_terminal_has_the_exceptions_text_without_values(begin: Callable[..., Any], form: str) -> None:
    terminal = Terminal()
    log = begin(terminal, form)
    log.error("failed", exc_info=raised(RuntimeError("outer")))
    assert "RuntimeError" in terminal.getvalue()
    assert HIDDEN not in terminal.getvalue()


def test_people_are_on_a_terminal_and_programs_elsewhere(begin: Callable[..., Any]) -> None:
    terminal, pipe = Terminal(), io.StringIO()
    begin(terminal).info("shown", vm="alpha")
    assert "\x1b[" in terminal.getvalue()
    assert "vm" in terminal.getvalue()
    begin(pipe, "console").info("shown", vm="alpha")
    assert "vm=alpha" in pipe.getvalue()
    assert "\x1b[" not in pipe.getvalue()
    terminal = Terminal()
    begin(terminal, "json").info("shown")
    assert lines(terminal)


def test_levels_below_are_left_out_and_change_while_it_runs(begin: Callable[..., Any]) -> None:
    stream = io.StringIO()
    log = begin(stream, level="warning")
    for at in LEVELS:
        set_level(at)
        for level in LEVELS:
            getattr(log, level)(at)
    told = [(line["event"], line["level"]) for line in lines(stream)]
    assert told == [(at, level) for number, at in enumerate(LEVELS) for level in LEVELS[number:]]


def test_the_form_changes_while_it_runs(begin: Callable[..., Any]) -> None:
    stream = io.StringIO()
    log = begin(stream)
    log.info("first")
    set_format("console")
    log.info("second")
    first, second = stream.getvalue().splitlines()
    assert first.startswith("{")
    assert not second.startswith("{")


def test_under_systemd_each_line_has_its_priority(
    begin: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "journal").open("w+") as journal, (tmp_path / "other").open("w+") as other:
        at = os.fstat(journal.fileno())
        for stream, prefixes in ((journal, ["<7>", "<6>", "<4>", "<3>", "<2>", "<3>"]), (other, [""] * 6)):
            log = begin(stream, level="debug")
            monkeypatch.setenv("JOURNAL_STREAM", f"{at.st_dev}:{at.st_ino}")
            set_format("auto")
            for level in LEVELS:
                getattr(log, level)("x")
            log.error("x", exc_info=ValueError())
            stream.seek(0)
            assert [line[: line.index("{")] for line in stream] == prefixes


def test_what_libraries_log_and_warn_of_is_a_line_too(begin: Callable[..., Any]) -> None:
    stream = io.StringIO()
    begin(stream)
    logging.getLogger("asyncio").error("%s was never retrieved", "x\ny")
    logging.getLogger("asyncio").info("left out")
    logging.getLogger("grpc").log(35, "between")
    logging.getLogger("grpc").error("%d", "a mistake of the caller's")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("old", stacklevel=1)
    told = [(line["logger"], line["level"], line["event"]) for line in lines(stream)]
    assert told[:3] == [
        ("asyncio", "error", "x\\ny was never retrieved"),
        ("grpc", "warning", "between"),
        ("grpc", "error", "%d"),
    ]
    assert told[3][:2] == ("py.warnings", "warning")


def test_a_thread_that_dies_is_a_line(begin: Callable[..., Any]) -> None:
    stream = io.StringIO()
    begin(stream)

    def die() -> None:
        raise KeyError("why")

    thread = threading.Thread(target=die, name="worker")
    thread.start()
    thread.join()
    (line,) = lines(stream)
    assert (line["level"], line["thread"], line["exception"][0]["exc_type"]) == ("critical", "worker", "KeyError")


def test_a_line_that_cannot_be_written_breaks_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    broken = os.fdopen(writer, "w")
    log = Lines(broken)
    log.info("x")
    log.info("y")
    with pytest.raises(BrokenPipeError):
        broken.close()
    log.info("closed")


def test_a_long_value_is_cut() -> None:
    assert clean("x" * MOST_CHARACTERS) == "x" * MOST_CHARACTERS
    assert clean("x" * 10**6) == "x" * MOST_CHARACTERS + "..."
