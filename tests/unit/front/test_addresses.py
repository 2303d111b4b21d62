"""What `listen` takes: plain TCP stays on this machine."""

from __future__ import annotations

import pytest

from hostdevd.front.addresses import ListenError, check_trust_domain, parse_address


@pytest.mark.parametrize(
    ("text", "host", "port", "tls"),
    [
        ("127.0.0.1:5000", "127.0.0.1", 5000, False),
        ("127.8.9.1:0", "127.8.9.1", 0, False),
        ("[::1]:5000", "::1", 5000, False),
        ("localhost:5000", "localhost", 5000, False),
        ("tls:127.0.0.1:5000", "127.0.0.1", 5000, True),
        ("tls:[::]:5000", "::", 5000, True),
        ("192.0.2.1:5000", "192.0.2.1", 5000, True),
        ("kvm1.example:5000", "kvm1.example", 5000, True),
        ("localhost.example:5000", "localhost.example", 5000, True),
        ("[2001:db8::1]:5000", "2001:db8::1", 5000, True),
    ],
)
def test_tcp_is_plain_on_loopback_alone(text: str, host: str, port: int, tls: bool) -> None:  # noqa: FBT001
    address = parse_address(text, with_tls=True)
    assert (address.path, address.host, address.port, address.tls) == (None, host, port, tls)
    if tls:
        with pytest.raises(ListenError, match="certificate, key and client_ca"):
            parse_address(text)
    else:
        assert parse_address(text) == address


def test_an_address_is_shown_as_clients_take_it() -> None:
    assert parse_address("tls:[::1]:0", with_tls=True).shown(7) == "[::1]:7"
    assert parse_address("tls:127.0.0.1:0", with_tls=True).shown(7) == "127.0.0.1:7"
    assert parse_address("unix:///run/h.sock").shown(0) == "unix:/run/h.sock"


@pytest.mark.parametrize(
    "text",
    [
        "unix:relative", "unix:", "unix:/a\0b", f"unix:/{'x' * 100}", "tls:unix:/run/h.sock", "nothing", ":5000",
        "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:٣", "tls:5000", "tls::5000", "",
    ],
)  # fmt: skip
def test_anything_else_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(ListenError) as refused:
        parse_address(text, with_tls=True)
    assert str(refused.value).startswith(f"listen {text}: ")


@pytest.mark.parametrize("text", ["spiffe://example.org", "Example.org", "a/b", "", "a" * 256])
def test_a_trust_domain_is_a_name(text: str) -> None:
    check_trust_domain("example.org")
    with pytest.raises(ValueError, match="trust domain"):
        check_trust_domain(text)
