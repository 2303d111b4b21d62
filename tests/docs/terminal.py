"""A shell in which a page's commands are typed one after the other, as its reader would."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

_MARK = "=== the command has ended"


class Terminal:
    """One bash that keeps its directory, variables and background processes from command to command.

    All that it started ends with it. Standard output and error come as one text, as on a screen.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str], timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._scripts = directory / ".typed"
        self._scripts.mkdir()
        self._typed = 0
        self._text = ""
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=directory,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._send("trap : INT")  # Ctrl-C ends the command, not the shell

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for ending in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self._bash.pid, ending)
            with suppress(subprocess.TimeoutExpired):
                self._bash.wait(0.5)
        self._bash.communicate()

    def run(self, command: str) -> tuple[int, str]:
        """Type a command and wait for its end: its exit status, and what was printed meanwhile."""
        self._type(command)
        return self._ended(_MARK)

    def run_until(self, command: str, enough: Callable[[str], bool]) -> str:
        """Type a command that would go on for ever, and press Ctrl-C when enough was printed, or time is up."""
        self._type(command)
        self._wait(lambda: enough(self._text) or _MARK in self._text)
        printed = self._text
        os.killpg(self._bash.pid, signal.SIGINT)
        self._ended(_MARK)
        return printed.partition(_MARK)[0]

    def more(self, enough: Callable[[str], bool]) -> str:
        """What background processes print until it is enough, or too much time is up."""
        self._wait(lambda: enough(self._text))
        printed, self._text = self._text, ""
        return printed

    def _type(self, command: str) -> None:
        """From a file, so that a command that reads its input finds its end there and not the next command."""
        self._typed += 1
        script = self._scripts / str(self._typed)
        script.write_text(f"{command}\n")
        self._send(f'. {script} </dev/null; printf "\\n{_MARK} %d\\n" $?')

    def _send(self, line: str) -> None:
        assert self._bash.stdin is not None
        self._bash.stdin.write(f"{line}\n".encode())
        self._bash.stdin.flush()

    def _ended(self, mark: str) -> tuple[int, str]:
        if not self._wait(lambda: f"\n{mark} " in self._text and self._text.endswith("\n")):
            raise TimeoutError(f"the command does not end; it printed:\n{self._text}")
        printed, _, rest = self._text.partition(f"\n{mark} ")
        status, _, self._text = rest.partition("\n")
        return int(status), printed

    def _wait(self, done: Callable[[], bool]) -> bool:
        """Read until it is done; False when the time is up or the shell has ended."""
        assert self._bash.stdout is not None
        deadline = time.monotonic() + self._timeout_s
        while not done():
            readable, _, _ = select.select([self._bash.stdout], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self._bash.stdout.fileno(), 65536) if readable else b""
            if not data:
                return False
            self._text += data.decode(errors="replace")
        return True
