"""The service as a process: its one line, its refusals, its end; and gRPC clients that know nothing of it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SERVICE = "hostdev.v1.HostDeviceService"


def serve(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "hostdevd", "serve", *arguments]


@contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The service until the block ends; the addresses that it announced."""
    with subprocess.Popen(serve(*arguments), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        wanted = sum(argument == "--listen" for argument in arguments)
        lines = [process.stdout.readline().strip() for _ in range(wanted)]
        try:
            yield process, [line.removeprefix("listening on ") for line in lines]
        finally:
            process.terminate()


def buf_curl(address: str, method: str, body: str = "{}") -> subprocess.Popen[str]:
    """A call with the schema that the server itself tells by reflection."""
    where = ["--unix-socket", address.removeprefix("unix:")] if address.startswith("unix:") else []
    base = "http://localhost" if where else f"http://{address}"
    command = ["buf", "curl", "--protocol", "grpc", "--http2-prior-knowledge", *where, "-d", body, f"{base}/{method}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def answer(address: str, method: str, body: str = "{}") -> Any:
    out, errors = buf_curl(address, method, body).communicate(timeout=30)
    return json.loads(out) if out else json.loads(errors)


@pytest.fixture
def simulated(tmp_path: Path) -> Iterator[str]:
    with running("--simulate", "--listen", f"unix:{tmp_path}/h.sock", "--state-dir", str(tmp_path / "state")) as (
        _,
        addresses,
    ):
        yield addresses[0]


def test_buf_curl_finds_the_services_and_calls_them(simulated: str) -> None:
    listed = subprocess.run(
        [
            "buf",
            "curl",
            "--protocol",
            "grpc",
            "--http2-prior-knowledge",
            "--unix-socket",
            simulated.removeprefix("unix:"),
            "--list-services",
            "http://localhost",
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert {SERVICE, "hostdev.v1.HostDeviceAdminService", "grpc.health.v1.Health"} <= set(listed)
    eligible = answer(simulated, f"{SERVICE}/ListEligible", '{"filter": {"types": ["pci"]}}')
    assert eligible["eligibleDevices"]
    assert answer(simulated, "grpc.health.v1.Health/Check", json.dumps({"service": SERVICE})) == {"status": "SERVING"}
    refusal = answer(simulated, f"{SERVICE}/GetDevice", '{"device": "nothing"}')
    assert refusal["code"] == "not_found"


def test_buf_curl_streams_the_holders_while_they_change(simulated: str) -> None:
    watching = buf_curl(simulated, f"{SERVICE}/WatchHolders", '{"changesOnly": true}')
    try:
        assert watching.stdout is not None
        decoder, text = json.JSONDecoder(), ""

        def next_message() -> Any:
            nonlocal text
            while True:
                try:
                    message, end = decoder.raw_decode(text.lstrip())
                except ValueError:
                    text += watching.stdout.readline()  # type: ignore[union-attr]
                    continue
                text = text.lstrip()[end:]
                return message

        assert "bookmark" in next_message()
        attach = {"vm": "alpha", "device": "pci_0000_01_00_0", "scope": "SCOPE_CONFIG"}
        done = answer(simulated, f"{SERVICE}/Attach", json.dumps(attach))
        assert done["assignment"]["state"] == "ASSIGNMENT_STATE_ATTACHED"
        change = next_message()["changeBatch"]["changes"][0]
        assert (change["kind"], change["holder"]["vm"]["name"]) == ("CHANGE_KIND_UPSERT", "alpha")
    finally:
        watching.kill()
        watching.communicate()


def test_sigterm_drains_and_exits_with_0(tmp_path: Path) -> None:
    arguments = ("--simulate", "--listen", f"unix:{tmp_path}/h.sock", "--state-dir", str(tmp_path / "state"))
    with running(*arguments) as (process, addresses):
        watching = buf_curl(addresses[0], f"{SERVICE}/WatchHolders")
        assert watching.stdout is not None
        watching.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        _, errors = watching.communicate(timeout=20)
        assert "SHUTTING_DOWN" in errors or "unavailable" in errors
    assert not (tmp_path / "h.sock").exists()


def test_tcp_on_loopback_tells_its_real_port(tmp_path: Path) -> None:
    with running("--simulate", "--listen", "127.0.0.1:0", "--state-dir", str(tmp_path)) as (_, addresses):
        assert int(addresses[0].rpartition(":")[2]) > 0
        assert answer(addresses[0], f"{SERVICE}/GetHost")["host"]["name"]


def test_a_restart_continues(tmp_path: Path) -> None:
    arguments = ("--simulate", "--listen", f"unix:{tmp_path}/h.sock", "--state-dir", str(tmp_path / "state"))
    with running(*arguments) as (process, addresses):
        device = answer(addresses[0], f"{SERVICE}/GetDevice", '{"device": "pci_0000_01_00_0"}')["device"]
        attach = {"vm": "alpha", "device": device["uid"]}
        name = answer(addresses[0], f"{SERVICE}/Attach", json.dumps(attach))["assignment"]["name"]
        process.terminate()
        assert process.wait(20) == 0
    with running(*arguments) as (_, addresses):
        found = answer(addresses[0], f"{SERVICE}/GetAssignment", json.dumps({"name": name}))
        deadline = time.monotonic() + 20
        while "assignment" not in found and time.monotonic() < deadline:
            found = answer(addresses[0], f"{SERVICE}/GetAssignment", json.dumps({"name": name}))
        assert found["assignment"]["state"] == "ASSIGNMENT_STATE_ATTACHED"
        done = answer(addresses[0], f"{SERVICE}/Detach", json.dumps({"assignment": name}))
        assert done["assignment"]["devices"][0]["currentDriver"] == "e1000e"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--connect", "nonsense:///system"), "nonsense"),
        (("--connect", "qemu:::"), "qemu:::"),
        (("--listen", "unix:/no/such/directory/h.sock"), "/no/such/directory"),
        (("--listen", "0.0.0.0:5000"), "loopback"),
        (("--listen", "unix:relative"), "absolute"),
        (("--metrics", "0.0.0.0:9478"), "plain HTTP, on a loopback address or a unix socket only"),
        (("--metrics", "tls:127.0.0.1:9478"), "plain HTTP"),
        (("--metrics", "unix:relative"), "metrics unix:relative: give unix:/path"),
        (("--simulate", "/no/such/file.xml"), "/no/such/file.xml"),
        (("--state-dir", "/no/such/directory/state"), "/no/such/directory/state"),
        (("--config", "/no/such/file.toml"), "/no/such/file.toml"),
    ],
)
def test_what_cannot_be_served_is_one_clear_line_and_status_1(
    tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    given = list(arguments)
    if "--listen" not in given:
        given += ["--listen", f"unix:{tmp_path}/h.sock"]
    if not {"--connect", "--simulate", "--config"} & set(given):
        given += ["--simulate"]
    done = subprocess.run(
        serve("--state-dir", str(tmp_path / "state"), *given), check=False, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert words in done.stderr


def test_an_occupied_port_or_socket_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            serve("--simulate", "--listen", busy, "--state-dir", str(tmp_path / "a")),
            check=False,
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert busy in done.stderr
    arguments = ("--simulate", "--listen", f"unix:{tmp_path}/h.sock", "--state-dir")
    with running(*arguments, str(tmp_path / "b")) as (_, addresses):
        second = subprocess.run(
            serve(*arguments, str(tmp_path / "c")), check=False, capture_output=True, text=True, timeout=30
        )
        assert second.returncode == 1
        assert "another" in second.stderr
        assert answer(addresses[0], f"{SERVICE}/GetHost")["host"]["name"]


def test_a_state_directory_serves_one_service(tmp_path: Path) -> None:
    with running("--simulate", "--listen", f"unix:{tmp_path}/a.sock", "--state-dir", str(tmp_path / "state")):
        second = subprocess.run(
            serve("--simulate", "--listen", f"unix:{tmp_path}/b.sock", "--state-dir", str(tmp_path / "state")),
            check=False,
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert second.returncode == 1
    assert "another hostdevd uses it" in second.stderr


def test_an_absent_libvirt_is_waited_for(tmp_path: Path) -> None:
    where = f"qemu+unix:///system?socket={tmp_path}/nobody"
    arguments = ("--connect", where, "--listen", f"unix:{tmp_path}/h.sock", "--state-dir", str(tmp_path / "state"))
    with running(*arguments) as (process, addresses):
        host = answer(addresses[0], f"{SERVICE}/GetHost")["host"]
        assert "host" in answer(addresses[0], f"{SERVICE}/GetHost", '{"host": "kvm1"}')
        assert answer(addresses[0], f"{SERVICE}/ListDevices", '{"host": "kvm1"}')["code"] == "unavailable"
        checks = {check["code"]: check["status"] for check in host["checks"]}
        assert checks["HOST_CHECK_CODE_LIBVIRT"] == "HOST_CHECK_STATUS_FAIL"
        refusal = answer(addresses[0], f"{SERVICE}/ListDevices")
        assert refusal["code"] == "unavailable"
        serving = answer(addresses[0], "grpc.health.v1.Health/Check")
        assert serving == {"status": "NOT_SERVING"}
        assert process.poll() is None


def test_the_quickstart_shows_the_main_job_without_root() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [str(root / "deploy/quickstart"), "--simulate", "--once"],
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert "drivers restored: ['e1000e', 'e1000e']" in done.stdout
