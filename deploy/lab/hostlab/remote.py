"""The outer side of the agent: run a command in the lab, wait for the lab, switch it off."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
from pathlib import Path
from typing import Any

from . import wire
from .errors import LabError

# What a command in the lab inherits. Not everything: the outer shell's secrets stay out.
_PASSED = re.compile(
    r"(HOME|PATH|LANG|TERM|TZ|USER|LOGNAME|SHELL|CI|VIRTUAL_ENV|(LC|PYTHON|PYENV|PYTEST|UV|COVERAGE|HOSTDEV|HOSTDEVD|LAB|GRPC)_?.*)"
)


class Remote:
    """One lab's agent, on a loopback port of the outer machine."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._token = token
        self.times_s: dict[str, float] = {}

    @classmethod
    def running(cls, cache: Path) -> Remote:
        """The lab that runs now; LabError when there is none."""
        try:
            record = json.loads((cache / "running.json").read_text())
            os.kill(record["pid"], 0)
        except (OSError, ValueError):
            raise LabError("no lab is running", hint="start one with deploy/lab/up") from None
        return cls(record["port"], record["token"])

    def await_ready(self, timeout_s: float) -> None:
        """Return once the lab is up. TimeoutError to try again, LabError when bringing it up failed."""
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            try:
                result = self._ask({"op": "ready"}, timeout_s=left_s)
            except (ConnectionError, TimeoutError):
                time.sleep(0.2)
                continue
            self.times_s = result.get("times_s", {})
            return
        raise TimeoutError

    def execute(self, argv: list[str], *, timeout_s: float | None = None, cwd: str | None = None) -> int:
        """Run a command, its output on ours as it comes; its exit status (128 + N for signal N)."""
        environment = {k: v for k, v in os.environ.items() if _PASSED.fullmatch(k)}
        request = {"op": "exec", "argv": argv, "cwd": cwd or os.getcwd(), "env": environment}
        try:
            return int(self._ask(request, timeout_s=timeout_s)["status"])
        except ConnectionError:
            raise LabError("the lab went away while the command ran") from None

    def power_off(self) -> None:
        """Save the lab's logs and switch it off."""
        self._ask({"op": "poweroff"}, timeout_s=20)

    def _ask(self, request: dict[str, Any], *, timeout_s: float | None) -> dict[str, Any]:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with socket.create_connection(("127.0.0.1", self._port), timeout=5) as connection:
            request["token"] = self._token
            connection.sendall(json.dumps(request).encode() + b"\n")
            connection.settimeout(timeout_s)
            for kind, payload in wire.frames(connection):
                if kind == wire.END:
                    result: dict[str, Any] = json.loads(payload)
                    if "error" in result:
                        raise LabError(f"in the lab: {result['error']}")
                    return result
                if kind in (wire.OUT, wire.ERR):
                    stream = sys.stdout if kind == wire.OUT else sys.stderr
                    stream.buffer.write(payload)
                    stream.flush()
                if deadline is not None:
                    connection.settimeout(max(deadline - time.monotonic(), 0.001))
        raise ConnectionError("the agent hung up")
