"""`hostdevd config` as an operator has it, and the configuration of a running service that is told to read it again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from hostdev.v1 import service_pb2
from hostdev.v1.service_pb2_grpc import HostDeviceServiceStub

ROOT = Path(__file__).parents[2]


def hostdevd(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "hostdevd", *arguments]
    env = {**os.environ, **environment}
    return subprocess.run(argv, env=env, check=False, capture_output=True, text=True, timeout=30)


def test_check_says_all_that_is_wrong_with_the_file_and_with_those_that_it_names(tmp_path: Path) -> None:
    policy, file = tmp_path / "policy.toml", tmp_path / "hostdevd.toml"
    policy.write_text('[[deny]]\nname = "no"\nadress = "0000:05:00.0"\n')
    file.write_text(
        'conect = "qemu:///system"\nlisten = ["unix:/run/h.sock", "192.0.2.1"]\nreflection = "yes"\nsysroot = "/none"\n'
        f'[eligibility]\npolicy = "{policy}"\n[log]\nlevel = "loud"\n'
    )
    environment = {"HOSTDEVD_METRICS": "9100", "HOSTDEVD_STATEDIR": "/x", "HOSTDEVD_ROLES": "/x"}
    done = hostdevd("config", "check", "--config", str(file), **environment)
    assert (done.returncode, done.stdout) == (1, "")
    told = done.stderr.splitlines()
    wanted = [
        (f"{file}: unknown key conect; did you mean connect?", ""),
        (f"{file}: listen: ", "give unix:/path"),
        (f"{file}: reflection: must be true or false", ""),
        (f"{file}: sysroot: /none is no directory", ""),
        (f"{file}: eligibility.policy: policy file {policy}: ", "unknown key 'adress'"),
        (f"{file}: log.level: must be one of debug, info, warning, error, critical", ""),
        ("HOSTDEVD_METRICS: ", "give unix:/path"),
        ("unknown environment variable HOSTDEVD_STATEDIR; did you mean HOSTDEVD_STATE_DIR?", ""),
        ("unknown environment variable HOSTDEVD_ROLES; did you mean HOSTDEVD_ACCESS_ROLES?", ""),
    ]
    for begins, has in wanted:
        assert any(line.startswith(f"hostdevd: {begins}") and has in line for line in told), (begins, told)
    assert len(told) == len(wanted)


def test_the_service_refuses_what_check_refuses(tmp_path: Path) -> None:
    file = tmp_path / "hostdevd.toml"
    file.write_text('conect = "qemu:///system"\nreflection = "yes"\n')
    checked = hostdevd("config", "check", "--config", str(file))
    served = hostdevd("serve", "--simulate", "--config", str(file))
    assert (served.returncode, served.stderr) == (1, checked.stderr)
    # The flag is --roles: passed over, the service would be open to everybody.
    guessed = hostdevd("serve", "--simulate", HOSTDEVD_ROLES="/etc/hostdevd/roles.toml")
    assert (guessed.returncode, guessed.stderr) == (
        1,
        "hostdevd: unknown environment variable HOSTDEVD_ROLES; did you mean HOSTDEVD_ACCESS_ROLES?\n",
    )
    assert len(served.stderr.splitlines()) == 2


def test_check_warns_of_what_is_right_and_hardly_meant(tmp_path: Path) -> None:
    roles, file = tmp_path / "roles.toml", tmp_path / "hostdevd.toml"
    roles.write_text("# to do\n")
    places = f'listen = ["unix:{tmp_path}/h.sock", "127.0.0.1:0"]\nstate_dir = "{tmp_path}/state"\n'
    for access, warnings in (
        (
            "",
            [
                f"{file}: socket.mode: 0666 lets everybody on this host in; without a roles file each is admin",
                f"{file}: listen: 127.0.0.1:0: everybody on this host reaches it; without a roles file each is admin",
            ],
        ),
        (
            f'[access]\nroles = "{roles}"\n',
            [f"{file}: access.roles: {roles}: the roles file has no rule: nobody may do anything"],
        ),
    ):
        file.write_text(f'{places}[socket]\nmode = "0666"\n{access}')
        done = hostdevd("config", "check", "--config", str(file))
        assert (done.returncode, done.stdout) == (0, f"{file}: is right\n")
        assert done.stderr.splitlines() == [f"hostdevd: warning: {warning}" for warning in warnings]
    roles.write_text('[[rule]]\nname = "all"\nrole = "admin"\nidentities = "uid:0"\n')
    assert hostdevd("config", "check", "--config", str(file)).stderr == ""


REFUSED = {
    "a group that is none": (
        'listen = ["unix:{0}/h.sock"]\n[socket]\ngroup = "nobodys-group"\n',
        "socket.group: there is no group nobodys-group",
    ),
    "a socket twice": ('listen = ["unix:{0}/h.sock", "unix:{0}/h.sock"]\n', "listen: unix:{0}/h.sock: is named twice"),
    "a port twice": (
        'listen = ["127.0.0.1:{1}", "localhost:{1}"]\n',
        "listen: localhost:{1}: is the same as 127.0.0.1:{1}",
    ),
    "metrics at a socket of calls": (
        'listen = ["unix:{0}/h.sock"]\nmetrics = "unix:{0}/h.sock"\n',
        "metrics: unix:{0}/h.sock: is named twice",
    ),
    "metrics at the read-only socket": (
        'listen = ["unix:{0}/h.sock"]\nmetrics = "unix:{0}/r.sock"\n[socket]\nread_only = "unix:{0}/r.sock"\n',
        "metrics: unix:{0}/r.sock: is named twice",
    ),
    "a socket nowhere": ('listen = ["unix:{0}/none/h.sock"]\n', "listen: unix:{0}/none/h.sock: there is no directory"),
    "a read-only socket nowhere": (
        'listen = ["unix:{0}/h.sock"]\n[socket]\nread_only = "unix:{0}/none/r.sock"\n',
        "socket.read_only: unix:{0}/none/r.sock: there is no directory",
    ),
    "a socket in a file's place": ('listen = ["unix:{0}/file"]\n', "listen: unix:{0}/file: {0}/file exists and is no"),
    "a state nowhere": ('listen = ["unix:{0}/h.sock"]\nstate_dir = "{0}/none/state"\n', "state_dir: {0}/none/state: "),
    "a state in a file's place": (
        'listen = ["unix:{0}/h.sock"]\nstate_dir = "{0}/file"\n',
        "state_dir: {0}/file is no directory",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_check_refuses_what_the_start_refuses(tmp_path: Path, what: str) -> None:
    text, told = REFUSED[what]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "file").touch()
    file = tmp_path / "hostdevd.toml"
    state = "" if "state_dir" in text else f'state_dir = "{tmp_path}/state"\n'
    file.write_text(f"simulate = true\n{state}{text.format(tmp_path, port)}")
    checked = hostdevd("config", "check", "--config", str(file))
    assert (checked.returncode, checked.stdout, len(checked.stderr.splitlines())) == (1, "", 1)
    assert checked.stderr.startswith(f"hostdevd: {file}: {told.format(tmp_path, port)}")
    served = hostdevd("serve", "--config", str(file))
    assert served.returncode == 1, served.stderr


def test_check_makes_nothing_and_minds_no_running_service(tmp_path: Path) -> None:
    text = f'listen = ["127.0.0.1:0", "127.0.0.1:0", "unix:{tmp_path}/h.sock"]\nstate_dir = "{tmp_path}/state"\n'
    file = tmp_path / "one.toml"
    file.write_text(text)
    before = sorted(tmp_path.iterdir())
    assert hostdevd("config", "check", "--config", str(file)).returncode == 0
    assert sorted(tmp_path.iterdir()) == before
    with serving(tmp_path, text):
        assert hostdevd("config", "check", "--config", str(file)).returncode == 0


def test_the_example_in_the_repository_is_right() -> None:
    example = ROOT / "deploy" / "hostdevd.toml"
    done = hostdevd("config", "check", "--config", str(example))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{example}: is right\n", "")
    assert hostdevd("config", "example").stdout == example.read_text()


def test_show_tells_where_each_value_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "hostdevd.toml"
    file.write_text('connect = "test:///default"\nstate_dir = "/from/file"\n[log]\nlevel = "error"\n')
    given = ("config", "show", "--listen", "127.0.0.1:0", "--state-dir", "/from/flag")
    variables = {"HOSTDEVD_CONFIG": str(file), "HOSTDEVD_LOG_LEVEL": "debug"}
    shown = json.loads(hostdevd(*given, "-o", "json", **variables).stdout)
    assert {key: (one["value"], one["source"]) for key, one in shown.items() if one["source"] != "default"} == {
        "connect": ("test:///default", "file"),
        "listen": (["127.0.0.1:0"], "flag"),
        "state_dir": ("/from/flag", "flag"),
        "log.level": ("debug", "environment"),
    }
    assert shown["connect"]["place"] == f"{file}: connect"
    assert shown["log.level"]["place"] == "HOSTDEVD_LOG_LEVEL"
    assert shown["eligibility.policy"]["value"] is None
    table = hostdevd(*given, **variables).stdout.splitlines()
    assert table[0].split() == ["OPTION", "VALUE", "SOURCE", "PLACE"]
    assert ["state_dir", '"/from/flag"', "flag", "--state-dir"] in [line.split() for line in table]
    assert len(table) == len(shown) + 1


def test_show_of_what_is_wrong_says_so(tmp_path: Path) -> None:
    done = hostdevd("config", "show", "--config", str(tmp_path / "none.toml"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "No such file" in done.stderr


# --- SIGHUP ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Service:
    """A running service with its configuration file and its log."""

    process: subprocess.Popen[str]
    file: Path
    log: Path
    stub: Any

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def read_again(self, text: str, event: str, **facts: Any) -> dict[str, Any]:
        """Change the file and wait for a line with these facts."""
        before = len(self.lines())
        self.file.write_text(text)
        self.process.send_signal(signal.SIGHUP)
        until = time.monotonic() + 20
        while time.monotonic() < until:
            for line in self.lines()[before:]:
                if line["event"] == event and facts.items() <= line.items():
                    return line
            time.sleep(0.02)
        raise AssertionError(self.log.read_text())

    def eligible(self) -> set[str]:
        answer = self.stub.ListEligible(service_pb2.ListEligibleRequest(), timeout=20)
        return {one.device.name for one in answer.eligible_devices}


@contextmanager
def serving(directory: Path, text: str) -> Iterator[Service]:
    file, log = directory / "hostdevd.toml", directory / "log"
    file.write_text(text)
    where = ("--listen", f"unix:{directory}/h.sock", "--state-dir", str(directory / "state"), "--config", str(file))
    argv = [sys.executable, "-m", "hostdevd", "serve", "--simulate", *where]
    with (
        log.open("w") as errors,
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        assert process.stdout is not None
        address = process.stdout.readline().strip().removeprefix("listening on ")
        try:
            with grpc.insecure_channel(address) as channel:
                yield Service(process, file, log, HostDeviceServiceStub(channel))
        finally:
            process.terminate()
    assert process.returncode == 0


def test_a_hangup_applies_what_can_be_names_the_rest_and_refuses_a_broken_file(tmp_path: Path) -> None:
    with serving(tmp_path, "") as service:
        before = service.eligible()
        device = "pci_0000_01_00_0"
        # A policy, where there was none at the start.
        policy = tmp_path / "policy.toml"
        policy.write_text('[[deny]]\nname = "no"\naddress = "0000:01:00.0"\n')
        denying = f'[eligibility]\npolicy = "{policy}"\n'
        told = service.read_again(denying, "read again", what="policy")
        assert told["file"] == str(policy)
        assert device not in service.eligible()
        # Options that are bound at the start: all are named, those of the command line are what they were.
        bound = 'connect = "test:///default"\nlisten = ["127.0.0.1:1"]\nmetrics = "127.0.0.1:0"\n'
        told = service.read_again(bound + denying, "a changed option needs a restart")
        assert (told["level"], told["options"]) == ("warning", ["connect", "metrics"])
        # A broken file: one line, and all is as before.
        told = service.read_again("[log]\nlevel = 1\nfomat = 2\n", "refused, the old one stays", what="configuration")
        assert told["level"] == "error"
        assert "log.level: must be one of" in told["reason"]
        assert "did you mean log.format" in told["reason"]
        assert device not in service.eligible()
        # No policy any more; and a level that leaves out the lines that told of it.
        service.read_again("", "not configured, so not read again", what="policy")
        assert service.eligible() == before
        count = len(service.lines())
        broken = f'[eligibility]\npolicy = "{tmp_path}/none"\n'
        service.read_again(f'{broken}[log]\nlevel = "error"\n', "refused, the old one stays", what="policy")
        assert {line["level"] for line in service.lines()[count:]} == {"error"}
        assert service.eligible() == before


@pytest.mark.parametrize("content", [b"\xff", b"log = 1"])
def test_a_file_that_cannot_be_read_ends_the_start_with_a_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "hostdevd.toml"
    file.write_bytes(content)
    done = hostdevd("serve", "--simulate", "--config", str(file))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert str(file) in done.stderr
