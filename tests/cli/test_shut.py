"""A socket that another user may not open: the client says who may, and not that nothing runs there."""

from __future__ import annotations

import grp
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostdev.shut import explain_shut, shut_socket

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may be another user; CI is root")

NOBODY = 65534
# Python and its modules may lie where nobody may read: all is there before it becomes him.
BECOMES_NOBODY = """
import os, sys
from hostdev import HostdevClient, UnavailableError
from hostdev.cli.failures import report
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
try:
    with HostdevClient("unix:" + sys.argv[1]) as client:
        client.get_host()
except UnavailableError as error:
    print(error)
    sys.exit(report(error, client.address))
"""


@pytest.fixture
def door() -> Iterator[Path]:
    """A socket below a directory that everybody may enter."""
    directory = Path(tempfile.mkdtemp(prefix="hs"))
    directory.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(directory / "s"))
        listening.listen()
        (directory / "s").chmod(0o660)
        yield directory / "s"
    shutil.rmtree(directory)


def told(door: Path) -> str:
    argv = [sys.executable, "-c", BECOMES_NOBODY, str(door)]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (3, f"hostdevctl: {done.stdout}")
    return done.stdout


def test_the_group_that_may_is_named_with_the_way_into_it(door: Path) -> None:
    group = grp.getgrall()[1]
    os.chown(door, 0, group.gr_gid)
    assert told(door) == (
        f"UNAVAILABLE: the user nobody may not connect to {door}: the group {group.gr_name} may; use sudo, or"
        f" `sudo usermod --append --groups {group.gr_name} nobody` and log in again\n"
    )


def test_where_no_group_may_it_is_the_owner_and_a_closed_directory_is_told(door: Path) -> None:
    assert told(door) == f"UNAVAILABLE: the user nobody may not connect to {door}: root may; use sudo\n"
    door.parent.chmod(0o700)
    assert "nor look into its directory" in told(door)


def test_who_is_in_the_group_from_the_next_login_on_is_told_so(door: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chown(door, 0, 4711)
    monkeypatch.setattr("grp.getgrgid", lambda gid: grp.struct_group(("operators", "x", gid, ["root"])))
    assert explain_shut(door).endswith("the group operators may, and he is in it from his next login on; log in again")


def test_nothing_else_is_taken_for_a_shut_socket() -> None:
    for details in (
        "",
        "Permission denied",
        "unix:/s: No such file or directory",
        "ipv4:127.0.0.1:1: Connection refused",
    ):
        assert shut_socket(details) is None
    assert shut_socket("last error: UNKNOWN: unix:/a b/s: connect: Permission denied (13)") == Path("/a b/s")
