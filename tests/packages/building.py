"""deploy/package as the tests call it, and the versions that it builds."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
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
    quickly = {**os.environ, "DPKG_DEB_COMPRESSOR_TYPE": "gzip", "DPKG_DEB_COMPRESSOR_LEVEL": "1"}
    made = subprocess.run(
        [ROOT / "deploy/package", "--output", output, *arguments],
        check=True,
        env=quickly,
        stdout=subprocess.PIPE,
        text=True,
    )
    return [Path(line) for line in made.stdout.splitlines()]


def build_all(output: Path) -> dict[str, Path]:
    """`new`, the Debian package; `old`, the same as an older version; `image`, the container's: built side by side.

    What is there already is not built again.
    """
    wanted = {"old": f"hostdevd_{OLDER}-*.deb", "image": f"hostdevd-{version()}.oci.tar"}
    wanted["new"] = f"hostdevd_{version()}-*.deb"
    if not all(list(output.glob(pattern)) for pattern in wanted.values()):
        with ThreadPoolExecutor() as builds:
            old = builds.submit(build, output, "--version", OLDER, "deb")
            build(output, "deb", "container")
            old.result()
    return {name: next(output.glob(pattern)) for name, pattern in wanted.items()}


if __name__ == "__main__":
    build_all(Path(sys.argv[1]))
