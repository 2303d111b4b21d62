"""The Go client: its own tests, and its programs against the service as a process."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from clients.simulated import ROOT, Simulated

MODULE = ROOT / "clients" / "go"
VECTORS = sorted((ROOT / "clients" / "vectors").glob("*.json"))
GO = shutil.which("go", path=f"{ROOT}/.venv/bin") or "go"
"""The lock's, before the machine's own."""

GO_BLOCK = re.compile(r"^```go\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.timeout(600)  # the first build compiles gRPC


def ran(*command: str | Path, cwd: Path = MODULE) -> subprocess.CompletedProcess[str]:
    """The command in a module, the client's own, with the toolchain of the lock and no other."""
    return subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env={**os.environ, "GOTOOLCHAIN": "local"},
        check=False,
        capture_output=True,
        text=True,
        timeout=580,
    )


def said(*command: str | Path) -> str:
    done = ran(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the example and the runner of the vectors, built."""
    directory = tmp_path_factory.mktemp("go")
    said(GO, "build", "-buildvcs=false", "-o", f"{directory}/", "./examples/orchestrator", "./vectors")
    return directory


def test_it_is_formatted_and_vetted() -> None:
    gofmt = Path(said(GO, "env", "GOROOT").strip()) / "bin" / "gofmt"
    assert said(gofmt, "-l", ".") == ""
    assert said(GO, "vet", "./...") == ""


def test_its_own_tests_pass() -> None:
    # Each package with tests says ok; the others say that they have none.
    tested = [line.split()[1] for line in said(GO, "test", "./...").splitlines() if line.startswith("ok ")]
    assert [name.rpartition("/")[2] for name in tested] == ["hostdev", "vectors"]


def test_the_example_gives_a_device_and_takes_it_back(programs: Path, simulated_server: Simulated) -> None:
    for address in simulated_server.addresses:
        assert said(programs / "orchestrator", address).splitlines() == [
            "device pci_0000_01_00_0 (Ethernet controller)",
            "affected 1: net_eth1_52_54_00_1a_b0_01 CHILD",
            "plan: HOST_DETACH pci_0000_01_00_0; ATTACH_LIVE pci_0000_01_00_0; VERIFY pci_0000_01_00_0",
            "attached: pci_0000_01_00_0 VISIBLE vfio-pci<-e1000e",
            "seen: UPSERT pci_0000_01_00_0 live",
            "detached: DETACHED",
            "gone: REMOVE pci_0000_01_00_0",
        ]


def test_the_example_says_why_it_cannot(programs: Path, simulated_server: Simulated) -> None:
    done = ran(programs / "orchestrator", "--vm", "nobody", simulated_server.tcp)
    assert (done.returncode, done.stderr) == (1, "VM_NOT_FOUND: there is no virtual machine nobody\n")


def module_in(directory: Path) -> str:
    """A module with the client as its neighbour, as the reader of a page has it; returns the client's path."""
    for name in ("go.mod", "go.sum"):
        (directory / name).write_text((MODULE / name).read_text())
    client = "github.com/hostdevd/hostdevd/clients/go"
    mod = (directory / "go.mod").read_text().replace(f"module {client}", "module pages", 1)
    (directory / "go.mod").write_text(f"{mod}\nrequire {client} v0.0.0\n\nreplace {client} => {MODULE}\n")
    return client


def test_the_program_of_the_readme_compiles(tmp_path: Path) -> None:
    (program,) = GO_BLOCK.findall((MODULE / "README.md").read_text())
    module_in(tmp_path)
    (tmp_path / "main.go").write_text(program)
    vetted = ran(GO, "vet", "-mod=mod", "./...", cwd=tmp_path)
    assert vetted.returncode == 0, vetted.stderr


def test_the_example_takes_its_options_on_either_side(programs: Path, simulated_server: Simulated) -> None:
    done = ran(programs / "orchestrator", simulated_server.tcp, "--vm", "nobody")
    assert (done.returncode, done.stderr) == (1, "VM_NOT_FOUND: there is no virtual machine nobody\n")
    assert ran(programs / "orchestrator", simulated_server.tcp, "--vm", "alpha", "more").returncode == 2


def test_the_go_of_the_documentation_compiles(tmp_path: Path) -> None:
    blocks = [block for page in (ROOT / "docs").rglob("*.md") for block in GO_BLOCK.findall(page.read_text())]
    assert blocks
    client = module_in(tmp_path)
    for number, block in enumerate(blocks):
        (tmp_path / f"block{number}.go").write_text(
            f'package pages\n\nimport (\n\t"context"\n\t"fmt"\n\n\t"{client}/hostdev"\n'
            f'\thostdevv1 "{client}/hostdev/v1"\n)\n\nvar _ = fmt.Sprint\n\n'
            f"func block{number}(ctx context.Context) error {{\n{block}\nreturn nil\n}}\n"
        )
    vetted = ran(GO, "vet", "-mod=mod", "./...", cwd=tmp_path)
    assert vetted.returncode == 0, vetted.stderr


@pytest.mark.parametrize("vector", VECTORS, ids=lambda path: path.stem)
def test_it_gets_the_answers_of(vector: Path, programs: Path, simulated_server: Simulated) -> None:
    done = ran(programs / "vectors", simulated_server.unix, vector)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_wrong_answer_in_a_vector_is_found(programs: Path, simulated_server: Simulated, tmp_path: Path) -> None:
    original = next(path for path in VECTORS if path.stem == "not-found").read_text()
    wrong = tmp_path / "wrong.json"
    wrong.write_text(original.replace('"reason": "DEVICE_NOT_FOUND"', '"reason": "GROUP_NOT_FOUND"', 1))
    done = ran(programs / "vectors", simulated_server.unix, wrong)
    assert done.returncode == 1
    assert done.stdout.startswith("step 1, HostDeviceService.GetDevice: error.reason is DEVICE_NOT_FOUND, expected ")
