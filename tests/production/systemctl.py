"""systemd, asked and told."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hosts import UNIT

DROP_IN = Path("/run/systemd/system", f"{UNIT}.d", "test.conf")


def systemctl(*arguments: str) -> str:
    """What it printed; it must succeed."""
    done = subprocess.run(["systemctl", *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def shown(setting: str) -> str:
    """One property of the unit."""
    return systemctl("show", "--value", "--property", setting, UNIT)


def main_pid() -> int:
    """The process of the service."""
    return int(shown("MainPID"))


@contextmanager
def settings(changed: str) -> Iterator[None]:
    """The unit with other settings, those around it left out; what runs is not started anew."""
    DROP_IN.parent.mkdir(parents=True, exist_ok=True)
    before = DROP_IN.read_text() if DROP_IN.exists() else None
    DROP_IN.write_text(f"[Service]\n{changed}\n")
    try:
        systemctl("daemon-reload")
        yield
    finally:
        if before is None:
            DROP_IN.unlink()
        else:
            DROP_IN.write_text(before)
        systemctl("daemon-reload")


@contextmanager
def changed_unit(changed: str) -> Iterator[None]:
    """The service restarted with other settings, and again with its own."""
    try:
        with settings(changed):
            systemctl("restart", UNIT)
            yield
    finally:
        systemctl("restart", UNIT)
