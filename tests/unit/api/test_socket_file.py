"""Who may connect to a unix socket is its file's mode, from the moment that it is there."""

from __future__ import annotations

import os
from pathlib import Path

import grpc.aio

from hostdevd.api.listeners import bind, parse_address


async def test_a_socket_is_its_owners_and_its_groups_alone_whatever_the_umask(tmp_path: Path) -> None:
    server = grpc.aio.server()
    before = os.umask(0)
    try:
        bind(server, parse_address(f"unix:{tmp_path}/h.sock"))
        assert os.umask(0) == 0, "the process's own is as it was"
    finally:
        os.umask(before)
    assert (tmp_path / "h.sock").stat().st_mode & 0o777 == 0o660
    await server.stop(None)
