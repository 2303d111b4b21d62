"""What the tests of packages share: the packages, built once by deploy/package, and a Debian to install them in."""

from __future__ import annotations

import hashlib
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from packages.building import OLDER, build, cache, version


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The wheels of the client and of the server."""
    return build(tmp_path_factory.mktemp("wheels"), "wheel")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`new`, the Debian package; `old`, the same as an older version; `image`, the container's.

    They are built side by side. A directory in HOSTDEVD_PACKAGES keeps them: for whoever changes a test, not a package.
    """
    kept = os.environ.get("HOSTDEVD_PACKAGES")
    output = Path(kept) if kept else tmp_path_factory.mktemp("packages")
    wanted = {"old": f"hostdevd_{OLDER}-*.deb", "image": f"hostdevd-{version()}.oci.tar"}
    wanted["new"] = f"hostdevd_{version()}-*.deb"
    if not all(list(output.glob(pattern)) for pattern in wanted.values()):
        with ThreadPoolExecutor() as builds:
            old = builds.submit(build, output, "--version", OLDER, "deb")
            build(output, "deb", "container")
            old.result()
    return {name: next(output.glob(pattern)) for name, pattern in wanted.items()}


@pytest.fixture(scope="session")
def deb(built: dict[str, Path]) -> Path:
    """The Debian package."""
    return built["new"]


@pytest.fixture(scope="session")
def tools() -> Path:
    """The programs of tools.lock, for this distribution's Python: a clean root can run them, too."""
    lock = Path(__file__).with_name("tools.lock")
    environment = cache() / f"tools-{hashlib.sha256(lock.read_bytes()).hexdigest()[:8]}"
    if not (environment / "done").exists():
        subprocess.run(["uv", "venv", "--quiet", "--clear", "--python", "/usr/bin/python3", environment], check=True)
        install = ["uv", "pip", "install", "--quiet", "--compile-bytecode", "--require-hashes", "--no-config"]
        subprocess.run([*install, "--python", environment / "bin/python", "-r", lock], check=True)
        (environment / "done").touch()
    return environment
