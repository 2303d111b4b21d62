"""The roles file of a running service: who is let in, SIGHUP with a good and a broken file, refusal to start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from hostdev.v1 import service_pb2
from hostdev.v1.service_pb2_grpc import HostDeviceServiceStub

LOOK = '[[rule]]\nname = "look"\nrole = "viewer"\nidentities = "loopback"\n'
WORK = f'[[rule]]\nname = "work"\nrole = "operator"\nidentities = "uid:{os.getuid()}"\n'
DRY = service_pb2.AttachRequest(vm="alpha", device="pci_0000_01_00_0", validate_only=True)


@dataclass(frozen=True, slots=True)
class Service:
    """A running service with a unix socket and a loopback port."""

    process: subprocess.Popen[str]
    roles: Path
    log: Path
    unix: Any
    loopback: Any

    def reload(self, roles: str) -> None:
        self.roles.write_text(roles)
        self.process.send_signal(signal.SIGHUP)

    def told(self, event: str, count: int = 1) -> dict[str, Any]:
        """The last line of the log with this event, once there are so many."""
        until = time.monotonic() + 20
        while time.monotonic() < until:
            lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
            found = [line for line in lines if event in line["event"]]
            if len(found) >= count:
                return dict(found[-1])
            time.sleep(0.02)
        raise AssertionError(self.log.read_text())


def arguments(directory: Path, *more: str) -> list[str]:
    where = ("--listen", f"unix:{directory}/h.sock", "--listen", "127.0.0.1:0", "--state-dir", f"{directory}/state")
    return [sys.executable, "-m", "hostdevd", "serve", "--simulate", *where, *more]


@contextmanager
def serving(directory: Path, roles: str | None, *more: str) -> Iterator[Service]:
    file, log = directory / "roles.toml", directory / "log"
    options = [*more]
    if more:
        file.write_text(roles or "")
    elif roles is not None:
        file.write_text(roles)
        options = ["--roles", str(file)]
    with (
        log.open("w") as errors,
        subprocess.Popen(arguments(directory, *options), stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        assert process.stdout is not None
        addresses = [process.stdout.readline().strip().removeprefix("listening on ") for _ in range(2)]
        try:
            with grpc.insecure_channel(addresses[0]) as unix, grpc.insecure_channel(addresses[1]) as loopback:
                stubs = HostDeviceServiceStub(unix), HostDeviceServiceStub(loopback)
                service = Service(process, file, log, *stubs)
                service.told("in step with libvirt")
                yield service
        finally:
            process.terminate()


def code(call: Callable[[], object]) -> grpc.StatusCode:
    try:
        call()
    except grpc.RpcError as error:
        return error.code()  # of a call too
    return grpc.StatusCode.OK


def codes(service: Service) -> list[grpc.StatusCode]:
    """Looking and a dry run, by the socket and by the port."""
    looking = service_pb2.ListDevicesRequest()
    return [
        code(lambda: service.unix.ListDevices(looking, timeout=20)),
        code(lambda: service.unix.Attach(DRY, timeout=20)),
        code(lambda: service.loopback.ListDevices(looking, timeout=20)),
        code(lambda: service.loopback.Attach(DRY, timeout=20)),
    ]


OK, NO = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED


def test_without_a_file_all_may_everything_and_the_log_warns_once(tmp_path: Path) -> None:
    with serving(tmp_path, None) as service:
        assert codes(service) == [OK] * 4
        service.process.send_signal(signal.SIGHUP)
        service.told("not configured, so not read again", 2)
        assert service.log.read_text().count("no roles file is configured") == 1


def test_a_hangup_applies_a_good_file_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    with serving(tmp_path, LOOK) as service:
        assert "no roles file" not in service.log.read_text()
        assert codes(service) == [NO, NO, OK, NO]
        watch = service.loopback.WatchDevices(service_pb2.WatchDevicesRequest(), timeout=40)
        assert next(watch).WhichOneof("event") == "snapshot"
        service.reload(LOOK.replace("viewer", "root"))
        told = service.told("refused, the old one stays")
        assert 'rule "look": role' in told["reason"]
        assert codes(service) == [NO, NO, OK, NO]
        service.reload(WORK)
        service.told("rules read", 2)
        assert codes(service) == [OK, OK, NO, NO]
        assert code(lambda: list(watch)) is NO


def test_a_configuration_that_names_no_roles_file_any_more_lets_nobody_in_until_a_restart(tmp_path: Path) -> None:
    configuration = tmp_path / "hostdevd.toml"
    named = f'[access]\nroles = "{tmp_path}/roles.toml"\n'
    configuration.write_text(named)
    with serving(tmp_path, LOOK, "--config", str(configuration)) as service:
        assert codes(service) == [NO, NO, OK, NO]
        configuration.write_text("")
        service.process.send_signal(signal.SIGHUP)
        told = service.told("refused, the old one stays")
        assert (told["level"], told["what"]) == ("error", "roles")
        assert "restart" in told["reason"]
        assert codes(service) == [NO, NO, OK, NO]
        service.process.send_signal(signal.SIGHUP)
        service.told("refused, the old one stays", 2)  # not forgotten by the next one
        configuration.write_text(named)
        service.reload(WORK)
        service.told("rules read", 2)
        assert codes(service) == [OK, OK, NO, NO]
    configuration.write_text("")
    with serving(tmp_path, LOOK, "--config", str(configuration)) as service:
        assert codes(service) == [OK] * 4


def test_a_broken_file_is_refused_at_the_start_and_by_config_check(tmp_path: Path) -> None:
    broken = tmp_path / "roles.toml"
    broken.write_text('[[rule]]\nname = "x"\nrole = "viewer"\nidentities = "user:nobody-of-this-name"\n')
    start = arguments(tmp_path, "--roles", str(broken))
    check = [*start[:3], "config", "check", "--roles", str(broken)]
    for argv in (start, check):
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=30)
        assert done.returncode == 1
        assert "roles.toml" in done.stderr
        assert "user:nobody-of-this-name" in done.stderr
        assert "Traceback" not in done.stderr
