"""The monitor of the lab host's QEMU, reached from inside over a virtio-serial port."""

from __future__ import annotations

import fcntl
import json
import os
import select
import time
from types import TracebackType
from typing import Any, Self

from .errors import LabError

PORT = "/dev/virtio-ports/lab.qmp"
_LOCK = "/run/lab/qmp.lock"


class Monitor:
    """One user at a time (a lock file sees to it). Answers are told from events by their id."""

    def __enter__(self) -> Self:
        self._lock = open(_LOCK, "w")  # closed in __exit__, with the port
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        deadline = time.monotonic() + 10
        while True:
            try:
                self._port = os.open(PORT, os.O_RDWR | os.O_NONBLOCK)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise LabError(f"{PORT}: {error.strerror}") from error
                time.sleep(0.1)
        self._buffer = b""
        self.events: list[dict[str, Any]] = []
        self._count = 0
        # Negotiated already after the first time: the error is expected then.
        self._ask("qmp_capabilities", {})
        self.events.clear()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._port)
        self._lock.close()

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run one command; its return value. LabError carries QEMU's description."""
        answer = self._ask(command, arguments)
        if "error" in answer:
            raise LabError(f"{command}: {answer['error']['desc']}")
        return answer["return"]

    def wait_deleted(self, device: str, timeout_s: float) -> bool:
        """Wait for DEVICE_DELETED of ``device``."""
        deadline = time.monotonic() + timeout_s
        while True:
            for event in self.events:
                if event["event"] == "DEVICE_DELETED" and event["data"].get("device") == device:
                    return True
            message = self._read(deadline)
            if message is None:
                return False
            if "event" in message:
                self.events.append(message)

    def _ask(self, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        self._count += 1
        mark = f"{os.getpid()}-{time.monotonic_ns()}-{self._count}"
        request = json.dumps({"execute": command, "arguments": arguments, "id": mark}) + "\n"
        os.set_blocking(self._port, True)
        os.write(self._port, request.encode())
        os.set_blocking(self._port, False)
        deadline = time.monotonic() + 30
        while (message := self._read(deadline)) is not None:
            if message.get("id") == mark:
                return message
            if "event" in message:
                self.events.append(message)
        raise LabError(f"{command}: the monitor does not answer")

    def _read(self, deadline: float) -> dict[str, Any] | None:
        while b"\n" not in self._buffer:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not select.select([self._port], [], [], left_s)[0]:
                return None
            try:
                self._buffer += os.read(self._port, 65536)
            except BlockingIOError:
                continue
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            message: dict[str, Any] = json.loads(line)
        except ValueError:
            return {}  # the rest of a line that an interrupted reader left
        return message
