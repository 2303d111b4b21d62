"""`hostdevd check`, the readiness probe: a healthy service, one without libvirt, one that is frozen, none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def check(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "hostdevd", "check", *arguments]
    return subprocess.run(
        argv, env={**os.environ, **environment}, check=False, capture_output=True, text=True, timeout=30
    )


@contextmanager
def serving(directory: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A service, and the configuration file that says where it listens."""
    file = directory / "hostdevd.toml"
    file.write_text(f'listen = ["127.0.0.1:0", "unix:{directory}/h.sock"]\nstate_dir = "{directory}/state"\n')
    argv = [sys.executable, "-m", "hostdevd", "serve", "--config", str(file), *arguments]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        assert process.stdout.readline()
        try:
            yield process, file
        finally:
            process.terminate()


def test_a_fit_host_is_status_0_and_a_frozen_service_one_line_in_time(tmp_path: Path) -> None:
    with serving(tmp_path, "--simulate") as (process, file):
        until = time.monotonic() + 20
        while (done := check("--config", str(file))).returncode and time.monotonic() < until:
            time.sleep(0.1)
        assert (done.returncode, done.stderr) == (0, "")
        assert "LIBVIRT" in done.stdout
        assert "PASS" in done.stdout
        assert "\x1b" not in done.stdout
        host = json.loads(check("-o", "json", HOSTDEVD_CONFIG=str(file)).stdout)
        assert {one["status"] for one in host["checks"]} == {"HOST_CHECK_STATUS_PASS"}
        process.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            frozen = check("--address", f"unix:{tmp_path}/h.sock", "--timeout", "0.5")
            assert time.monotonic() - began < 10
        finally:
            process.send_signal(signal.SIGCONT)
        assert (frozen.returncode, frozen.stdout) == (1, "")
        (line,) = frozen.stderr.splitlines()
        assert "DEADLINE_EXCEEDED" in line


def test_a_check_that_failed_is_shown_and_status_1(tmp_path: Path) -> None:
    where = f"qemu+unix:///system?socket={tmp_path}/nobody"
    with serving(tmp_path, "--connect", where) as (_, file):
        done = check("--config", str(file))
        assert done.returncode == 1
        assert "FAIL" in done.stdout
        assert "hostdevd: LIBVIRT failed: libvirt does not answer" in done.stderr


def test_who_may_not_read_the_host_hears_whether_it_is_served(tmp_path: Path) -> None:
    roles = tmp_path / "roles.toml"
    roles.write_text('[[rule]]\nname = "others"\nrole = "admin"\nidentities = "uid:4000000000"\n')
    with serving(tmp_path, "--simulate", "--roles", str(roles)) as (process, file):
        until = time.monotonic() + 20
        while (done := check("--config", str(file))).returncode and time.monotonic() < until:
            time.sleep(0.1)
        assert (done.returncode, done.stderr) == (0, "")
        (line,) = done.stdout.splitlines()
        assert line.startswith(f"unix:{tmp_path}/h.sock: SERVING (NOT_ALLOWED")
        assert "viewer" in line
        told = json.loads(check("--config", str(file), "-o", "json").stdout)
        assert told == {"health": "SERVING", "reason": "NOT_ALLOWED"}
        alive = check("--config", str(file), "--alive")
        assert (alive.returncode, alive.stdout) == (0, f"unix:{tmp_path}/h.sock: alive (SERVING)\n")
        process.send_signal(signal.SIGSTOP)
        try:
            frozen = check("--config", str(file), "--alive", "--timeout", "0.5")
        finally:
            process.send_signal(signal.SIGCONT)
        assert (frozen.returncode, frozen.stdout) == (1, "")
        assert "DEADLINE_EXCEEDED" in frozen.stderr


def test_a_service_without_libvirt_is_alive_and_not_ready_whatever_the_roles(tmp_path: Path) -> None:
    roles = tmp_path / "roles.toml"
    roles.write_text('[[rule]]\nname = "others"\nrole = "admin"\nidentities = "uid:4000000000"\n')
    where = f"qemu+unix:///system?socket={tmp_path}/nobody"
    with serving(tmp_path, "--connect", where, "--roles", str(roles)) as (_, file):
        alive = check("--config", str(file), "--alive", "-o", "json")
        assert (alive.returncode, json.loads(alive.stdout)) == (0, {"health": "NOT_SERVING"})
        done = check("--config", str(file))
        assert done.returncode == 1
        assert "the service is NOT_SERVING" in done.stderr


def test_nobody_there_is_not_alive(tmp_path: Path) -> None:
    done = check("--alive", "--address", f"unix:{tmp_path}/none.sock")
    assert (done.returncode, done.stdout) == (1, "")
    assert "UNAVAILABLE" in done.stderr


@pytest.mark.parametrize("how", ["address", "file"])
def test_nobody_there_is_one_line_that_names_the_address(tmp_path: Path, how: str) -> None:
    file, address = tmp_path / "hostdevd.toml", f"unix:{tmp_path}/none.sock"
    file.write_text(f'listen = ["{address}"]\n')
    done = check("--address", address) if how == "address" else check("--config", str(file))
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"hostdevd: {address}: UNAVAILABLE")


def test_what_makes_no_sense_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "hostdevd.toml"
    for nowhere in ("127.0.0.1:0", "[::]:50051"):
        file.write_text(f'listen = ["{nowhere}"]\n')
        done = check("--config", str(file))
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
        assert "--address" in done.stderr
    assert check("--address", "nonsense").returncode == 1
    assert check("--timeout", "0").returncode == 2
