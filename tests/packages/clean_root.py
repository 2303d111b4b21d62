"""A clean Debian: a root made by debootstrap, below a layer that a test may write, run or booted by systemd-nspawn.

Whatever a test leaves there is gone with its layer; the root below is shared and never written.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BOOT_TIMEOUT_S = 240
FAILS = 'fails() { if "$@"; then echo "it did not fail: $*"; exit 1; fi; }'
"""For scripts: the shell's `!` does not end one that runs with -e."""

_UNIT = """\
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c '/bin/sh -eux /test.sh >/test.out 2>&1; echo $? >/test.status; systemctl poweroff --no-block'
Environment=LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin
[Install]
WantedBy=multi-user.target
"""


class CleanRoot:
    """A Debian to install packages in."""

    def __init__(self, path: Path, layer: Path, mounts: Mapping[Path, Path]) -> None:
        self.path = path
        self._layer = layer
        self._mounts = mounts

    def run(self, script: str, user: str = "root") -> str:
        """What a shell prints that runs the script; it fails when that does."""
        command = [*self._nspawn(), "--pipe", "--user", user, "--setenv=DEBIAN_FRONTEND=noninteractive"]
        done = subprocess.run(
            [*command, "sh", "-eu", "-c", script],
            stdin=subprocess.DEVNULL,
            capture_output=True,  # systemd-nspawn has remarks of its own on standard error
            text=True,
            check=False,
            timeout=BOOT_TIMEOUT_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def boot(self, script: str) -> str:
        """Boot it, run the script as root when all is started, shut down; what the script printed.

        The script is a shell's with -e and -x: the output shows its commands.
        """
        (self.path / "test.sh").write_text(script)
        (self.path / "etc/systemd/system/test.service").write_text(_UNIT)
        wanted = self.path / "etc/systemd/system/multi-user.target.wants"
        wanted.mkdir(exist_ok=True)
        link = wanted / "test.service"
        link.unlink(missing_ok=True)
        link.symlink_to("../test.service")
        for name in ("test.out", "test.status"):
            (self.path / name).unlink(missing_ok=True)
        booted = subprocess.run(
            [*self._nspawn(), "--boot"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            timeout=BOOT_TIMEOUT_S,
        )
        output = self.path / "test.out"
        assert output.exists(), booted.stdout[-4000:]
        assert (self.path / "test.status").read_text() == "0\n", output.read_text()
        return output.read_text()

    def added(self) -> set[str]:
        """Files and directories that are there and not in the root below, as absolute paths."""
        return {
            f"/{path.relative_to(self._layer)}"
            for path in self._layer.rglob("*")
            # What was deleted is a device 0:0 in the layer.
            if (path.is_symlink() or not path.is_char_device()) and not self._is_below(path)
        }

    def _is_below(self, path: Path) -> bool:
        return os.path.lexists(self._base() / path.relative_to(self._layer))

    def _base(self) -> Path:
        return self._layer.parent / "base"

    def _nspawn(self) -> list[str]:
        command = ["systemd-nspawn", "--quiet", "--directory", str(self.path), "--resolv-conf=copy-host"]
        if not Path("/run/systemd/system").exists():
            command += ["--register=no", "--keep-unit"]  # no systemd here to ask for a scope
        return command + [f"--bind-ro={source}:{target}" for source, target in self._mounts.items()]


def base_of_a_host() -> Path:
    """A root with what a host has before hostdevd comes, so that installing it asks no mirror.

    It is made at the first time, which takes a minute or two.
    """
    python = Path("/usr/bin/python3").resolve().name
    packages = ("systemd-sysv", "dbus", python, "python3-apt", "libvirt0", "libudev1", "libstdc++6")
    script = 'set -eu; program=tests; . deploy/prerequisites.sh; . deploy/container/base.sh; debian_base "$@"'
    made = subprocess.run(
        ["bash", "-c", script, "base", *packages], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    return Path(made.stdout.strip())


@contextmanager
def clean_root(base_directory: Path, work: Path, mounts: Mapping[Path, Path] | None = None) -> Iterator[CleanRoot]:
    """A root of its own for a test, below `work`; `mounts` are seen in it, read-only."""
    layer, scratch, path = work / "layer", work / "scratch", work / "root"
    for directory in (layer, scratch, path):
        directory.mkdir(parents=True)
    (work / "base").symlink_to(base_directory)
    options = f"lowerdir={base_directory},upperdir={layer},workdir={scratch}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(path)], check=True)
    try:
        yield CleanRoot(path, layer, mounts or {})
    finally:
        subprocess.run(["umount", str(path)], check=True)
