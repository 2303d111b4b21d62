"""The wheels, installed by uv into environments that have nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest

from packages.building import version
from packages.clean_root import ROOT


@pytest.fixture
def programs(tmp_path: Path, wheels: list[Path]) -> Path:
    """Where `uv tool install` puts the programs; nothing of the tree is in their environment."""
    environment = {
        **os.environ,
        "UV_TOOL_DIR": str(tmp_path / "tools"),
        "UV_TOOL_BIN_DIR": str(tmp_path / "bin"),
        "UV_PYTHON": "/usr/bin/python3",
    }
    client, server = wheels
    lock = ROOT / "requirements.lock"
    install: list[str | Path] = [
        "uv",
        "tool",
        "install",
        "--quiet",
        "--no-config",
        "--find-links",
        client.parent,
        "--constraints",
        lock,
    ]
    subprocess.run(
        [*install, "--with-executables-from", "hostdevd-client", server], check=True, env=environment, cwd=tmp_path
    )
    return tmp_path / "bin"


def test_a_service_and_its_command_line_run_from_an_empty_environment(programs: Path, tmp_path: Path) -> None:
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}
    address = f"unix:{tmp_path}/hostdevd.sock"

    def said(*command: str) -> str:
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd=tmp_path)
        return done.stdout

    assert said("hostdevd", "--version") == f"hostdevd {version()}\n"
    assert said("hostdevctl", "--version") == f"hostdevctl {version()}\n"
    with subprocess.Popen(
        ["hostdevd", "serve", "--simulate", "--listen", address, "--state-dir", str(tmp_path / "state")],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as service:
        try:
            assert service.stdout is not None
            assert service.stdout.readline() == f"listening on {address}\n"
            assert "pci_0000_04_00_0" in said("hostdevctl", "--address", address, "devices")
            assert "ATTACHED" in said(
                "hostdevctl", "--address", address, "attach", "alpha", "pci_0000_04_00_0", "--yes"
            )
            said("hostdevd", "check", "--address", address)
        finally:
            service.send_signal(signal.SIGTERM)
        assert service.wait(20) == 0


def test_the_client_alone_is_typed_and_needs_no_server(tmp_path: Path, wheels: list[Path]) -> None:
    client = wheels[0]
    python = tmp_path / "environment/bin/python"
    subprocess.run(["uv", "venv", "--quiet", "--python", "/usr/bin/python3", tmp_path / "environment"], check=True)
    # The oldest of what it says it works with.
    install: list[str | Path] = [
        "uv",
        "pip",
        "install",
        "--quiet",
        "--no-config",
        "--resolution",
        "lowest-direct",
        "--python",
        python,
    ]
    subprocess.run([*install, client], check=True)
    program = tmp_path / "program.py"
    program.write_text(
        "from hostdev.client import HostdevClient\n"
        "from hostdev.v1.device_pb2 import Device\n"
        "with HostdevClient('unix:/nowhere') as client:\n"
        "    device: Device = Device(name='x')\n"
        "    print(client.address, device.name)\n"
    )
    done = subprocess.run([python, "-I", program], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "unix:/nowhere x\n"
    checked: list[str | Path] = [
        "mypy",
        "--strict",
        "--config-file=",
        f"--python-executable={python}",
        "--cache-dir",
        tmp_path / "mypy",
    ]
    subprocess.run([*checked, program], check=True, cwd=tmp_path)


def test_the_wheels_have_what_belongs_to_them_and_nothing_else(wheels: list[Path]) -> None:
    tops = ({"hostdev"}, {"hostdevd"})
    for wheel, top in zip(wheels, tops, strict=True):
        names = zipfile.ZipFile(wheel).namelist()
        assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == top
        assert f"{next(iter(top))}/py.typed" in names
        assert any(name.endswith("licenses/LICENSE") for name in names)
        assert not [name for name in names if "__pycache__" in name or "/tests/" in name]


def test_all_parts_have_one_version() -> None:
    client = tomllib.loads((ROOT / "clients/python/pyproject.toml").read_text())["project"]
    server = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert client["version"] == server["version"]
    assert f"hostdevd-client[cli]=={version()}" in server["dependencies"]
    assert f'__version__ = "{version()}"' in (ROOT / "server/hostdevd/__init__.py").read_text()
    assert f"image: hostdevd:{version()} " in (ROOT / "deploy/kubernetes/hostdevd.yaml").read_text()
