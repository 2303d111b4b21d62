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
def changed_unit(settings: str) -> Iterator[None]:
    """The service restarted with other settings, and again with its own."""
    DROP_IN.parent.mkdir(parents=True, exist_ok=True)
    DROP_IN.write_text(f"[Service]\n{settings}\n")
    try:
        systemctl("daemon-reload")
        systemctl("restart", UNIT)
        yield
    finally:
        DROP_IN.unlink()
        systemctl("daemon-reload")
        systemctl("restart", UNIT)
