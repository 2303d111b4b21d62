"""Commands on the lab's host."""

from __future__ import annotations

import subprocess


def run(*command: str) -> None:
    """Run one that must succeed; what it complains of is in the failure."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
