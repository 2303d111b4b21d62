"""What the tests of packages share: the packages, built once by deploy/package, and a Debian to install them in."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from packages.building import build, build_all, cache


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The wheels of the client and of the server."""
    return build(tmp_path_factory.mktemp("wheels"), "wheel")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The packages, see `build_all`: from the directory HOSTDEVD_PACKAGES, where they are kept, else built here."""
    kept = os.environ.get("HOSTDEVD_PACKAGES")
    return build_all(Path(kept) if kept else tmp_path_factory.mktemp("packages"))


@pytest.fixture(scope="session")
def deb(built: dict[str, Path]) -> Path:
    """The Debian package."""
    return built["new"]


@pytest.fixture(scope="session")
def tools() -> Path:
    """The programs of tools.lock, for this distribution's Python: a clean root can run them, too."""
    lock = Path(__file__).with_name("tools.lock")
    environment = cache() / f"tools-{hashlib.sha256(lock.read_bytes()).hexdigest()[:8]}"
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "tools.lock").open("w") as lock_of_ours:
        fcntl.flock(lock_of_ours, fcntl.LOCK_EX)  # until it is closed: another process may want them, too
        if not (environment / "done").exists():
            subprocess.run(
                ["uv", "venv", "--quiet", "--clear", "--python", "/usr/bin/python3", environment], check=True
            )
            install = ["uv", "pip", "install", "--quiet", "--compile-bytecode", "--require-hashes", "--no-config"]
            subprocess.run([*install, "--python", environment / "bin/python", "-r", lock], check=True)
            (environment / "done").touch()
    return environment
