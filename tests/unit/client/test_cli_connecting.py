"""hostdevctl's global options: where they may stand, and how they encrypt."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from hostdev import Tls
from hostdev.channel import Connection
from hostdev.cli.anywhere import complete_with_globals_first, with_globals_first
from hostdev.cli.app import app
from unit.client.fake_server import FakeHostdevd
from unit.client.outcome import Run


@pytest.fixture
def connections(server: FakeHostdevd, monkeypatch: pytest.MonkeyPatch) -> list[Tls | None]:
    """What hostdevctl connects with; the fake answers, whatever the address."""
    seen: list[Tls | None] = []
    fake = Connection.to(server.address, None, None)

    def to(address: str | None, tls: Tls | None, _: object) -> Connection:
        del address
        seen.append(tls)
        return fake

    monkeypatch.setattr(Connection, "to", to)
    return seen


def test_another_machine_without_encryption_is_wrong_usage(hostdevctl: Run) -> None:
    shown = hostdevctl("host", "--address", "192.0.2.1:50051")
    assert shown.status == 2
    assert "192.0.2.1:50051 is another machine: give tls" in shown.err.replace("\n", " ")


def test_a_socket_with_tls_is_wrong_usage_but_for_the_environment(
    hostdevctl: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "a local socket is not encrypted" in hostdevctl("host", "--tls-ca", __file__).err
    assert hostdevctl("host", "--tls-ca", __file__).status == 2
    monkeypatch.setenv("HOSTDEV_TLS_CA", "/nonexistent/ca.pem")
    assert hostdevctl("host").status == 0


def test_files_that_are_not_there_and_half_pairs_are_wrong_usage(
    hostdevctl: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = hostdevctl("host", "--address", "localhost:1", "--tls-cert", __file__)
    assert (half.status, "go together" in half.err) == (2, True)
    monkeypatch.setenv("HOSTDEV_TLS_CA", "/nonexistent/ca.pem")
    missing = hostdevctl("host", "--address", "localhost:1")
    assert (missing.status, "/nonexistent/ca.pem" in missing.err) == (2, True)


def test_the_name_in_the_servers_certificate_can_be_told(
    hostdevctl: Run, connections: list[Tls | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOSTDEV_TLS_SERVER_NAME", "by.environment")
    assert hostdevctl("host", "--tls-ca", __file__, "--tls-server-name", "lab.example").status == 0
    assert hostdevctl("host", "--tls-ca", __file__).status == 0
    assert connections == [
        Tls(ca=Path(__file__), server_name="lab.example"),
        Tls(ca=Path(__file__), server_name="by.environment"),
    ]
    page = hostdevctl("manual").out
    assert "HOSTDEV_TLS_SERVER_NAME" in page
    assert r"\-\-tls\-server\-name" in page


def test_every_global_option_may_stand_anywhere_as_the_manual_says(hostdevctl: Run) -> None:
    assert "These may stand anywhere on the line." in hostdevctl("manual").out
    for option in typer.main.get_command(app).params:
        for name in option.opts:
            words = [name] if option.is_flag else [name, "VALUE"]  # type: ignore[attr-defined]
            assert with_globals_first(["device", *words, "x"]) == [*words, "device", "x"]
            assert with_globals_first(["device", "--", *words]) == ["device", "--", *words]
    assert with_globals_first(["host", "--tls-ca=x"]) == ["--tls-ca=x", "host"]
    assert hostdevctl("devices", "--version").out.startswith("hostdevctl")


@pytest.mark.parametrize(
    ("typed", "ordered"),
    [
        ("detach --address unix:/x web pci", "--address unix:/x detach web pci"),
        ("detach web --address=unix:/x pci", "--address=unix:/x detach web pci"),
        ("detach web -o json 'a b' pci", "-o json detach web 'a b' pci"),
        ("detach web --address", "detach web --address"),
    ],
)
def test_the_words_to_complete_are_ordered_like_those_to_run(typed: str, ordered: str) -> None:
    words = typed.split(" ")
    zsh = {"_HOSTDEVCTL_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": f"hostdevctl {typed}"}
    complete_with_globals_first(zsh)
    assert zsh["_TYPER_COMPLETE_ARGS"] == f"hostdevctl {ordered}"
    if "'" not in typed:
        bash = {
            "_HOSTDEVCTL_COMPLETE": "complete_bash",
            "COMP_WORDS": f"hostdevctl {typed.replace(':', ' : ').replace('=', ' = ')}",
            "COMP_CWORD": str(len(words) + 2 * typed.count(":") + 2 * typed.count("=")),
        }
        complete_with_globals_first(bash)
        assert bash["COMP_WORDS"] == f"hostdevctl {ordered}"
        assert bash["COMP_CWORD"] == str(len(words))


def test_half_a_quotation_is_completed_as_it_stands() -> None:
    half = {"_HOSTDEVCTL_COMPLETE": "complete_bash", "COMP_WORDS": "hostdevctl device 'a", "COMP_CWORD": "2"}
    before = dict(half)
    complete_with_globals_first(half)
    assert half == before
