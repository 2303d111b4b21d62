"""Certificates of the openssl program, read by the service's own reader: when they end, and faults in between."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog

from cli.authority import Authority
from hostdevd.api.certificates import Certificates
from hostdevd.api.expiry import end
from hostdevd.front.doors import TlsFiles

DAY_S = 86_400.0


@contextmanager
def no_descriptors() -> Iterator[None]:
    """None can be had, as when all are taken."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def certificates(authority: Authority) -> Certificates:
    pair = authority.issue("server", "DNS:localhost")
    return Certificates(TlsFiles(pair.certificate, pair.key, authority.certificate))


def ends_by_openssl(file: Path) -> float:
    command: list[str | Path] = ["openssl", "x509", "-in", file, "-noout", "-enddate", "-dateopt", "iso_8601"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    date = told.strip().removeprefix("notAfter=")
    return float(subprocess.run(["date", "-d", date, "+%s"], check=True, capture_output=True, text=True).stdout)


def test_a_renewal_is_taken_once_it_can_be_read_however_often_it_could_not_be(authority: Authority) -> None:
    given = certificates(authority)
    assert given._changed() is None
    authority.issue("server", "DNS:localhost")
    with structlog.testing.capture_logs() as logs:
        with no_descriptors():
            for _ in range(100):  # handshakes
                assert given._changed() is None
        assert given._changed() is not None
        assert given._changed() is None
    assert [(line["log_level"], line["event"].partition(",")[0]) for line in logs] == [
        ("error", "certificates could not be read again"),
        ("info", "certificates read again"),
    ]
    assert "Too many open files" in logs[0]["reason"]


def test_a_file_that_is_wrong_is_looked_at_once_and_again_when_it_changes(authority: Authority, tmp_path: Path) -> None:
    given = certificates(authority)
    key = (tmp_path / "server.key").read_bytes()
    (tmp_path / "server.key").write_bytes(authority.certificate.with_suffix(".key").read_bytes())
    with structlog.testing.capture_logs() as logs:
        assert [given._changed() for _ in range(10)] == [None] * 10
    assert [line["event"] for line in logs] == ["new certificates are refused, the old ones stay"]
    (tmp_path / "server.key").write_bytes(key)
    assert given._changed() is not None


def test_when_they_end_is_told_of_what_is_in_force(authority: Authority, tmp_path: Path) -> None:
    given = certificates(authority)
    server = tmp_path / "server.pem"
    before = ends_by_openssl(server)
    assert given.ends == {file: ends_by_openssl(path) for file, path in _paths(authority, server).items()}
    assert given.ends["client_ca"] - before > 20 * DAY_S  # one is for two days, the other for thirty
    server.write_bytes(authority.certificate.read_bytes())  # no certificate of this key
    assert given._changed() is None
    assert given.ends["certificate"] == before
    authority.issue("server", "DNS:localhost")
    authority.certificate.write_bytes(_made(tmp_path, days=3).read_bytes())
    assert given._changed() is not None
    assert given.ends == {file: ends_by_openssl(path) for file, path in _paths(authority, server).items()}
    assert given.ends["client_ca"] - given.ends["certificate"] < 2 * DAY_S


def _paths(authority: Authority, server: Path) -> dict[str, Path]:
    return {"certificate": server, "client_ca": authority.certificate}


def _made(directory: Path, days: int) -> Path:
    other = directory / "other.pem"
    name = ("-subj", "/CN=other", "-keyout", directory / "other.key", "-nodes", "-newkey", "rsa:2048")
    command: list[str | Path] = ["openssl", "req", "-x509", *name, "-days", str(days), "-out", other]
    subprocess.run(command, check=True, capture_output=True)
    return other


@pytest.mark.parametrize("days", [3, 9_000, 20_000])  # into the times that are written with four digits of the year
def test_the_first_of_several_counts(authority: Authority, tmp_path: Path, days: int) -> None:
    other = _made(tmp_path, days)
    ends = {file: ends_by_openssl(file) for file in (other, authority.certificate)}
    assert end(other.read_bytes(), min) == ends[other]
    both = b"a comment\n" + authority.certificate.read_bytes() + other.read_bytes()
    assert (end(both, min), end(both, max)) == (min(ends.values()), max(ends.values()))


def test_what_cannot_be_read_has_no_end() -> None:
    assert end(b"", min) is None
    for nonsense in ("MAA=", "MIIB", "!!!!", "MAIwAA==", "\xe4"):
        pem = f"-----BEGIN CERTIFICATE-----\n{nonsense}\n-----END CERTIFICATE-----\n"
        assert end(pem.encode(), min) is None
