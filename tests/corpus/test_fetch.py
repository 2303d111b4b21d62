"""How the machine's own sources become those of source packages; nothing here reaches a registry."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from corpus import fetch
from corpus.fetch import FetchFailed, Sources, kept, unpack

LINES = """# deb http://disabled.example/debian old main
deb [arch=amd64 signed-by=/k.gpg] http://one.example/debian bookworm main contrib # here
deb http://one.example/debian bookworm-security main
deb-src http://one.example/debian bookworm main
deb http://flat.example/apt ./
"""
STANZAS = """# ours
Types: deb deb-src
URIs: http://two.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
URIs: http://two.example/security
Suites: bookworm-security
Components: main

Types: deb-src
URIs: http://two.example/already
Suites: bookworm
Components: main
"""


def test_lines_ask_for_source_packages() -> None:
    assert Sources({"sources.list": LINES}).of_packages_source().files["sources.list"].splitlines() == [
        "deb-src [arch=amd64 signed-by=/k.gpg] http://one.example/debian bookworm main contrib",
        "deb-src http://flat.example/apt ./",
        "deb-src http://one.example/debian bookworm-security main",
    ]


def test_stanzas_ask_for_source_packages() -> None:
    asked = Sources({"debian.sources": STANZAS}).of_packages_source().files["debian.sources"]
    assert asked.count("Types: deb-src\n") == 2
    assert "Suites: bookworm bookworm-updates\n" in asked
    assert " -----END PGP PUBLIC KEY BLOCK-----\n" in asked
    assert "already" not in asked


def test_another_suite_is_asked_where_a_whole_release_is_served() -> None:
    newer = Sources({"sources.list": LINES, "debian.sources": STANZAS}).of_packages_source("sid").files
    assert newer["sources.list"] == (
        "deb-src [arch=amd64 signed-by=/k.gpg] http://one.example/debian sid main contrib\n"
    )
    assert newer["debian.sources"].count("Types: ") == 1
    assert "Suites: sid\n" in newer["debian.sources"]


def test_only_what_apt_reads_is_read(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text(LINES)
    (parts / "debian.sources").write_text(STANZAS)
    (parts / "debian.sources.disabled").write_text(STANZAS)
    assert set(Sources.of_the_machine(tmp_path).files) == {"sources.list", "debian.sources"}


def test_documents_and_schemas_are_unpacked_and_nothing_else(tmp_path: Path) -> None:
    archive = tmp_path / "libvirt_9.0.0.orig.tar.xz"
    with tarfile.open(archive, "w:xz") as packed:
        for place in (
            "tests/nodedevschemadata/a.xml",
            "tests/nodedevschemadata/a.c",
            "tests/domaindata/b.xml",
            "src/conf/schemas/nodedev.rng",
            "tests/nodedevschemadata/../../../evil.xml",
        ):
            packed.addfile(tarfile.TarInfo(f"libvirt-9.0.0/{place}"), io.BytesIO())
        link = tarfile.TarInfo("libvirt-9.0.0/tests/nodedevxml2xmlout/a.xml")
        link.type, link.linkname = tarfile.SYMTYPE, "../nodedevschemadata/a.xml"
        packed.addfile(link)
    assert unpack(archive, tmp_path / "out") == "9.0.0"
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == {"9.0.0/documents/nodedevschemadata/a.xml", "9.0.0/schemas/nodedev.rng"}
    assert kept(tmp_path / "out") == ["9.0.0"]


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "libvirt_9.0.0.orig.tar.xz"
    with tarfile.open(archive, "w:xz"):
        pass
    with pytest.raises(FetchFailed):
        unpack(archive, tmp_path / "out")


def test_a_registry_without_the_package_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fetch, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(Sources, "of_the_machine", lambda: Sources({}))
    assert fetch.main([]) == 1
    assert "cannot be fetched" in capsys.readouterr().err
    assert kept() == []
