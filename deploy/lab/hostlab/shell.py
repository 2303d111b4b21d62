"""Runs a shell command inside a guest, over the FIFO pair of its lab.shell channel."""

from __future__ import annotations

import base64
import fcntl
import os
import secrets
import select
import time
from pathlib import Path

from .errors import LabError

GUEST_DIR = Path("/run/lab/guests")


def in_guest(name: str, command: str, *, timeout_s: float) -> tuple[int, bytes]:
    """Exit status and output (stdout and stderr together) of ``command`` in guest ``name``.

    Waits for a guest that still boots. Raises LabError when the time is over.
    """
    inward, outward = GUEST_DIR / f"{name}.in", GUEST_DIR / f"{name}.out"
    if not inward.exists():
        known = sorted(p.stem for p in GUEST_DIR.glob("*.in"))
        raise LabError(f"no guest {name!r} with a shell", hint=f"there are: {' '.join(known)}")
    deadline = time.monotonic() + timeout_s
    with open(GUEST_DIR / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # O_RDWR: neither open blocks, and a guest that restarts leaves no end of file behind.
        reading = os.open(outward, os.O_RDWR | os.O_NONBLOCK)
        writing = os.open(inward, os.O_RDWR)
        try:
            mark = secrets.token_hex(8)
            encoded = base64.b64encode(command.encode()).decode()
            os.write(writing, f"{mark} {encoded}\n".encode())
            return _answer(reading, mark, deadline, name)
        finally:
            os.close(reading)
            os.close(writing)


def _answer(reading: int, mark: str, deadline: float, name: str) -> tuple[int, bytes]:
    buffer, inside, collected = b"", False, b""
    while True:
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not select.select([reading], [], [], left_s)[0]:
            raise LabError(
                f"guest {name} does not answer", hint=f"virsh domstate {name}; /var/log/lab/guest-{name}.log"
            )
        buffer += os.read(reading, 65536)
        *lines, buffer = buffer.split(b"\n")
        for raw in lines:
            line = raw.strip().decode(errors="replace")
            if line == f"begin {mark}":
                inside = True
            elif line.startswith(f"end {mark} "):
                return int(line.rpartition(" ")[2]), base64.b64decode(collected)
            elif inside:
                collected += raw
