"""The TypeScript client: its own tests, its example and the vectors, against the service as a process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clients.simulated import ROOT, Simulated

CLIENT = ROOT / "clients" / "typescript"
VECTORS = sorted((ROOT / "clients" / "vectors").glob("*.json"))
BIN = Path(sys.executable).parent
"""Where the lock put node and npm, and hostdevd."""

pytestmark = pytest.mark.timeout(600)


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run it in the client's directory, with the node of the lock."""
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "HOSTDEVD": str(BIN / "hostdevd"),
    }
    return subprocess.run(
        [str(part) for part in command],
        cwd=CLIENT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def passes(*command: str | Path) -> str:
    """Run it; its output, or fail with what it said."""
    done = run(*command)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    """What the lock pins is installed, and the sources are compiled."""
    passes(CLIENT / "setup")
    shutil.rmtree(CLIENT / "dist", ignore_errors=True)
    passes("npm", "run", "--silent", "build")


def test_the_sources_are_formatted() -> None:
    passes("npm", "run", "--silent", "format")


def test_the_lock_names_no_registry() -> None:
    assert '"resolved"' not in (CLIENT / "package-lock.json").read_text(encoding="utf-8")


def test_its_own_tests_pass() -> None:
    passes("npm", "test", "--silent")


def test_its_tests_against_a_server_that_dies_and_connections_that_fall_silent_pass() -> None:
    passes("npm", "run", "--silent", "test:live")


@pytest.mark.parametrize("transport", ["unix", "tcp"])
def test_the_example_gives_a_network_card_and_takes_it_back(transport: str, simulated_server: Simulated) -> None:
    address = {"unix": simulated_server.unix, "tcp": simulated_server.tcp}[transport]
    assert passes("node", "dist/examples/orchestrator.js", address, "--vm", "alpha").splitlines() == [
        "device pci_0000_01_00_0 (Ethernet controller)",
        "affected 1: net_eth1_52_54_00_1a_b0_01 CHILD",
        "plan: HOST_DETACH pci_0000_01_00_0; ATTACH_LIVE pci_0000_01_00_0; VERIFY pci_0000_01_00_0",
        "attached: pci_0000_01_00_0 VISIBLE vfio-pci<-e1000e",
        "seen: UPSERT pci_0000_01_00_0 live",
        "detached: DETACHED",
        "gone: REMOVE pci_0000_01_00_0",
    ]


def test_the_example_says_why_it_was_refused(simulated_server: Simulated) -> None:
    refused = run("node", "dist/examples/orchestrator.js", simulated_server.unix, "--vm", "nobody")
    assert refused.returncode == 1
    assert "VM_NOT_FOUND" in refused.stderr


@pytest.mark.parametrize("vector", VECTORS, ids=lambda path: path.stem)
def test_it_gets_the_answers_of_the_vectors(vector: Path, simulated_server: Simulated) -> None:
    passes("node", "dist/test/vectors.js", simulated_server.unix, vector)


def test_a_vector_that_promises_something_else_fails(tmp_path: Path, simulated_server: Simulated) -> None:
    other = tmp_path / "other.json"
    text = (ROOT / "clients" / "vectors" / "attach.json").read_text(encoding="utf-8")
    other.write_text(text.replace("unbind from e1000e", "unbind from nothing"), encoding="utf-8")
    failed = run("node", "dist/test/vectors.js", simulated_server.unix, other)
    assert failed.returncode == 1
    assert "unbind from nothing" in failed.stderr
