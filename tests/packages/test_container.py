"""The image, run from its archive: as its own user, with what it is told at its start."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from packages.building import version

Buildah = Callable[..., str]


@pytest.fixture
def buildah(tmp_path: Path) -> Iterator[Buildah]:
    """buildah with a store of its own."""

    def run(*arguments: str | Path) -> str:
        store = ["--root", f"{tmp_path}/images", "--runroot", f"{tmp_path}/run", "--storage-driver", "vfs"]
        done = subprocess.run(["buildah", *store, *arguments], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        printed: str = done.stdout
        return printed

    yield run
    run("rm", "--all")


def test_the_image_serves_as_a_user_without_rights(buildah: Buildah, built: dict[str, Path]) -> None:
    container = buildah("from", f"oci-archive:{built['image']}").strip()
    described = json.loads(buildah("inspect", container))["OCIv1"]["config"]
    assert described["Entrypoint"] == ["/usr/bin/hostdevd"]
    assert described["Cmd"] == ["serve"]
    assert described["User"] == "971:971"
    assert described["Labels"]["org.opencontainers.image.version"] == version()
    script = """
        set -eu
        id -u
        if touch /etc/x 2>/dev/null; then exit 1; fi
        hostdevd serve --simulate --state-dir /var/lib/hostdevd >/tmp/out 2>/tmp/log & service=$!
        i=0; until grep -q listening /tmp/out || [ $((i += 1)) -gt 200 ]; do sleep 0.1; done
        cat /tmp/out
        hostdevctl devices | grep -c pci_
        hostdevd check >/dev/null
        kill $service
        wait $service
    """
    out = buildah("run", "--isolation", "chroot", container, "--", "sh", "-c", script)
    user, listening, devices = out.splitlines()
    assert user == "971"
    assert listening == "listening on unix:/run/hostdevd/hostdevd.sock"
    assert int(devices) > 10
