"""Socket files with their mode and group, TCP on all of a host's addresses, and the directory that is nobody else's."""

from __future__ import annotations

import grp
import os
import socket
import stat
from pathlib import Path

import pytest

from hostdevd.front.addresses import ListenError, parse_address
from hostdevd.front.claims import claimed
from hostdevd.front.sockets import open_tcp, open_unix, private_directory


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_a_socket_has_its_mode_whatever_the_umask_is(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "s"
    before = os.umask(0o077)
    try:
        with open_unix(parse_address(f"unix:{path}"), path, mode=mode, group=None):
            assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        assert os.umask(before) == 0o077


def test_a_socket_is_given_to_its_group_by_name_or_number(tmp_path: Path) -> None:
    gid = next((one for one in os.getgroups() if one != os.getegid()), os.getegid()) if os.geteuid() else 12345
    names = [str(gid)]
    if not os.geteuid():
        names.append(next(one.gr_name for one in grp.getgrall() if one.gr_gid))
    for number, group in enumerate(names):
        path = tmp_path / f"s{number}"
        with open_unix(parse_address(f"unix:{path}"), path, mode=0o660, group=group):
            found = path.stat().st_gid
            assert found == (int(group) if group.isdigit() else grp.getgrnam(group).gr_gid)


def test_a_group_that_there_is_not_is_named(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with pytest.raises(ListenError, match="there is no group nosuchgroup"):
        open_unix(parse_address(f"unix:{path}"), path, mode=0o660, group="nosuchgroup")
    assert not path.exists()


def test_a_name_has_all_of_its_addresses_at_one_port() -> None:
    opened = open_tcp(parse_address("localhost:0"))
    try:
        assert len({listening.getsockname()[1] for listening in opened}) == 1
        for listening in opened:
            with socket.create_connection(listening.getsockname()[:2]):
                pass
    finally:
        for listening in opened:
            listening.close()


def test_a_host_or_port_that_cannot_be_had_is_named() -> None:
    (taken,) = open_tcp(parse_address("127.0.0.1:0"))
    with taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError, match=f"listen 127.0.0.1:{port}: "):
            open_tcp(parse_address(f"127.0.0.1:{port}"))
    with pytest.raises(ListenError, match=r"192\.0\.2\.1"):
        open_tcp(parse_address("192.0.2.1:0", with_tls=True))


def test_the_private_directory_is_nobody_elses_and_its_name_is_short(tmp_path: Path) -> None:
    beside = tmp_path / "s"
    with private_directory(beside) as private:
        place = tmp_path / "s.private"
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        with socket.socket(socket.AF_UNIX) as inside:
            inside.bind(str(private / "x"))
            assert (place / "x").is_socket()
        assert len(str(private / "x")) < 40
    assert not place.exists()
    with private_directory(None) as private:
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
        place = private.resolve()
    assert not place.exists()


def test_what_a_killed_service_left_is_cleared_and_what_is_not_ours_is_not(tmp_path: Path) -> None:
    place = tmp_path / "s.private"
    place.mkdir(mode=0o777)
    (place / "left").touch()
    with private_directory(tmp_path / "s") as private:
        assert not list(private.iterdir())
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "dear").touch()
    place.symlink_to(elsewhere)
    with pytest.raises(ListenError, match="no directory of this service"), private_directory(tmp_path / "s"):
        pass
    assert (elsewhere / "dear").exists()


def test_a_path_has_one_service(tmp_path: Path) -> None:
    addresses = (parse_address(f"unix:{tmp_path}/s"),)
    with claimed(addresses), pytest.raises(ListenError, match="another hostdevd"), claimed(addresses):
        pass
