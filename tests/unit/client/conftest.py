from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hostdev import HostdevClient
from hostdev.cli import main
from unit.client.fake_server import FakeHostdevd
from unit.client.outcome import Outcome, Run


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeHostdevd]:
    with FakeHostdevd(tmp_path) as running:
        yield running


@pytest.fixture
def client(server: FakeHostdevd) -> Iterator[HostdevClient]:
    with HostdevClient(server.address) as connected:
        yield connected


@pytest.fixture
def hostdevctl(server: FakeHostdevd, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs hostdevctl in this process, without a terminal."""
    monkeypatch.setenv("HOSTDEV_ADDRESS", server.address)

    def run(*argv: str) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(argv)
        written = capsys.readouterr()
        code = ended.value.code
        return Outcome(code if isinstance(code, int) else 0 if code is None else 1, written.out, written.err)

    return run
