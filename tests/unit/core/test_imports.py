"""The core knows no transport, no libvirt and no XML; every package knows only those below it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import hostdevd

ROOT = Path(hostdevd.__file__).parent
FORBIDDEN_IN_CORE = {"grpc", "libvirt", "lxml", "google", "hostdev"}
# Who may import whom, besides itself; `app` and `__main__` put all of it together.
MAY_IMPORT = {
    "core": set[str](),
    "ops": {"core"},
    "front": {"core"},
    "api": {"core", "front", "ops"},
    "host": {"core", "ops", "sriov"},
    "sriov": {"core"},
    "virt": {"core", "ops"},
    "sim": {"core", "ops", "virt"},  # the simulated libvirt speaks libvirt's XML
}


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("file", files("core"), ids=lambda file: file.stem)
def test_core_imports_no_transport_no_libvirt_and_no_xml(file: Path) -> None:
    assert {name.split(".")[0] for name in imported(file)} & FORBIDDEN_IN_CORE == set()


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_in_one_direction(package: str) -> None:
    allowed = {package, *MAY_IMPORT[package]}
    for file in files(package):
        ours = {name.split(".")[1] for name in imported(file) if name.startswith("hostdevd.")}
        assert ours - {"__version__"} <= allowed, file


def test_libvirt_is_imported_in_virt_alone() -> None:
    found = {file.relative_to(ROOT).parts[0] for file in ROOT.rglob("*.py") if "libvirt" in set(imported(file))}
    assert found <= {"virt"}
