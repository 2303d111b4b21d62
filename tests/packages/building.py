"""deploy/package as the tests call it, and the versions that it builds."""

from __future__ import annotations

import os
import subprocess
import tomllib
from pathlib import Path

from packages.clean_root import ROOT

OLDER = "0.0.1"


def version() -> str:
    """The version that all parts have."""
    found: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return found


def cache() -> Path:
    """Where what may be kept between runs is."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hostdevd" / "packages"


def build(output: Path, *arguments: str) -> list[Path]:
    """Run deploy/package; the files that it says it has made."""
    made = subprocess.run(
        [ROOT / "deploy/package", "--output", output, *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    return [Path(line) for line in made.stdout.splitlines()]
