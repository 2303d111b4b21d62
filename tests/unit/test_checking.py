"""What `hostdevd config check` finds that no process is needed for; the rest is in tests/cli/test_config.py."""

from __future__ import annotations

import sys
from itertools import combinations

import pytest

from hostdevd import checking
from hostdevd.checking import faults
from hostdevd.front.addresses import parse_address
from hostdevd.options.layers import Found


def test_traces_without_open_telemetry_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Found({"tracing": "http://127.0.0.1:4318"}, places={"tracing": "f: tracing.endpoint"})
    assert list(faults(found)) == []
    monkeypatch.setitem(sys.modules, "hostdevd.ops.tracing", None)
    monkeypatch.delattr("hostdevd.ops.tracing", raising=False)
    (line,) = faults(found)
    assert line.startswith("f: tracing.endpoint: tracing: OpenTelemetry is missing")
    assert "hostdevd[otel]" in line


@pytest.mark.parametrize(
    ("alike", "same"),
    [
        (("127.0.0.1:1", "localhost:1"), True),
        (("tls:0.0.0.0:1", "127.0.0.1:1"), True),
        (("tls:[::]:1", "127.0.0.1:1", "[::1]:1", "tls:0.0.0.0:1"), True),
        (("[::1]:1", "tls:[0:0::1]:1"), True),
        (("tls:kvm1.example:1", "tls:kvm1.example:1"), True),
        (("tls:0.0.0.0:1", "[::1]:1"), False),
        (("127.0.0.1:1", "127.0.0.2:1", "[::1]:1", "127.0.0.1:2", "kvm1.example:1", "unix:/1"), False),
        (("127.0.0.1:0", "127.0.0.1:0"), False),
        (("unix:/run/h", "unix:/run/../run/h", "unix:///run/h"), True),
        (("unix:/run/h", "unix:/run/i"), False),
    ],
)
def test_addresses_that_cannot_both_be_had(alike: tuple[str, ...], *, same: bool) -> None:
    first, *others = (parse_address(text, with_tls=True) for text in alike)
    assert {checking._are_one(first, other) for other in others} == {same}
    for one, other in combinations((first, *others), 2):
        assert checking._are_one(one, other) == checking._are_one(other, one)
