"""Where to listen, as it is configured: what is not safe or makes no sense is one line that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.authority import Authority, Pair
from hostdevd.api.certificates import check_certificates
from hostdevd.checking import faults
from hostdevd.config import OPTIONS, load
from hostdevd.core.limits import Limits
from hostdevd.doors import doors_of, limits_of, tls_of
from hostdevd.front.addresses import ListenError
from hostdevd.front.doors import TlsFiles
from hostdevd.options.layers import collect

TLS = '[tls]\ncertificate = "/c"\nkey = "/k"\n'


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def authority(place: Path) -> Authority:
    return Authority(place)


@pytest.fixture(scope="module")
def server(authority: Authority) -> Pair:
    return authority.issue("server", "DNS:localhost")


def configured(directory: Path, text: str) -> Path:
    file = directory / "hostdevd.toml"
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            'listen = ["192.0.2.1:0"]\n',
            "loopback address only; elsewhere it needs certificates: [tls]",
        ),
        ('listen = ["tls:127.0.0.1:0"]\n', "tls: needs certificates: [tls] certificate, key and client_ca"),
        (f'listen = ["tls:127.0.0.1:0"]\n{TLS}', "client_ca is missing"),
        ('[tls]\nclient_ca = "/c"\n', "certificate and key are missing"),
        ('[tls]\nspiffe_trust_domain = "example.org"\n', "give certificate, key and client_ca"),
        ('[socket]\nread_only = "127.0.0.1:0"\n', "give unix:/path"),
        ('[socket]\nread_only = "unix:/run/hostdevd/hostdevd.sock"\n', "is in listen too"),
    ],
)
def test_what_makes_no_sense_is_said_at_the_start_and_by_config_check(tmp_path: Path, options: str, words: str) -> None:
    file = configured(tmp_path, options)
    with pytest.raises(ListenError) as refused:
        doors_of(load({}, {}, file))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    told = list(faults(collect(OPTIONS, {}, {}, file)))
    assert any(words in line for line in told), told


def test_all_of_it_is_there(tmp_path: Path) -> None:
    file = configured(
        tmp_path,
        'listen = ["unix:/run/a", "127.0.0.1:1", "[::]:2"]\n'
        '[socket]\ngroup = "libvirt"\nmode = "0600"\nread_only = "unix:/run/b"\nread_only_mode = "0664"\n'
        f'{TLS}client_ca = "/a"\nspiffe_trust_domain = "example.org"\n[limits]\nreads = 3\n',
    )
    config = load({}, {}, file)
    doors = doors_of(config)
    assert [address.tls for address in doors.all] == [False, False, True, False]
    assert (doors.mode, doors.read_only_mode, doors.group) == (0o600, 0o664, "libvirt")
    assert doors.tls == tls_of(config) == TlsFiles(Path("/c"), Path("/k"), Path("/a"))
    assert (doors.trust_domain, doors.first_path) == ("example.org", Path("/run/a"))
    assert limits_of(config) == Limits(reads=3)
    assert limits_of(load({}, {}, None)) == Limits()


def test_certificates_that_nothing_listens_with_are_left_alone(tmp_path: Path) -> None:
    assert doors_of(load({}, {}, configured(tmp_path, f'{TLS}client_ca = "/a"\n'))).tls is None


def test_certificates_that_go_together_are_fit(authority: Authority, server: Pair) -> None:
    check_certificates(TlsFiles(server.certificate, server.key, authority.certificate))


def test_files_that_are_no_good_are_named(place: Path, authority: Authority, server: Pair) -> None:
    other, nothing, empty = authority.issue("other", "DNS:localhost"), place / "nothing", place / "empty"
    empty.touch()
    locked = place / "locked.key"
    authority.encrypt(server.key, locked)
    for certificate, key, client_ca, words in (
        (server.certificate, other.key, authority.certificate, f"{other.key} do not go together: key values mismatch"),
        (empty, server.key, authority.certificate, "no certificate or no key in PEM"),
        (server.certificate, locked, authority.certificate, f"key {locked} needs a password"),
        (nothing, server.key, authority.certificate, f"certificate {nothing}: No such file"),
        (server.certificate, server.key, nothing, f"client_ca {nothing}: No such file"),
        (server.certificate, server.key, empty, f"client_ca {empty}: there is no certificate"),
        (server.certificate, server.key, server.key, f"client_ca {server.key}: there is no certificate"),
    ):
        with pytest.raises(ListenError) as refused:
            check_certificates(TlsFiles(certificate, key, client_ca))
        assert words in str(refused.value)


def test_a_key_that_everybody_can_read_is_refused(authority: Authority, server: Pair) -> None:
    server.key.chmod(0o644)
    try:
        with pytest.raises(ListenError, match="can be read by everybody: chmod o= "):
            check_certificates(TlsFiles(server.certificate, server.key, authority.certificate))
    finally:
        server.key.chmod(0o640)  # a group of the service's own is usual
    check_certificates(TlsFiles(server.certificate, server.key, authority.certificate))
