"""The agent inside the lab: runs commands for the outer machine, forwards the server's port."""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from . import wire
from .qemu import AGENT_PORT, LAB_ADDRESS

CONFIG = Path("/lab/config/config.json")
STATUS = Path("/run/lab/status.json")
_NEVER_PASSED = frozenset({"LAB_OUTPUT", "HOSTDEVD_LAB"})


def main() -> None:
    """Serve until the lab is powered off."""
    config: dict[str, Any] = json.loads(CONFIG.read_text())
    forward = config.get("forward")
    if forward:
        _listen(forward["port"], lambda c: _forward(c, forward["path"]))
    _listen(AGENT_PORT, lambda c: _serve(c, config))
    threading.Event().wait()


def _listen(port: int, handle: Any) -> None:
    server = socket.create_server((LAB_ADDRESS, port), backlog=64)

    def accept() -> None:
        while True:
            connection, _ = server.accept()
            threading.Thread(target=handle, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def _serve(connection: socket.socket, config: dict[str, Any]) -> None:
    with connection:
        try:
            wire.send(connection, wire.HELLO)
            request = json.loads(connection.makefile("rb").readline())
            if not hmac.compare_digest(str(request.get("token", "")), config["token"]):
                wire.send(connection, wire.END, b'{"error": "wrong token"}')
                return
            result = _OPERATIONS[request["op"]](connection, request, config)
            wire.send(connection, wire.END, json.dumps(result).encode())
        except (OSError, ValueError, KeyError) as error:
            print(f"agent: {type(error).__name__}: {error}", file=sys.stderr, flush=True)


def _ready(_connection: socket.socket, _request: dict[str, Any], _config: dict[str, Any]) -> dict[str, Any]:
    """Wait until bringup has written how it went."""
    while not STATUS.exists():
        time.sleep(0.05)
    result: dict[str, Any] = json.loads(STATUS.read_text())
    return result


def _execute(connection: socket.socket, request: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    passed = {k: v for k, v in request["env"].items() if k not in _NEVER_PASSED}
    environment = {**passed, "HOSTDEVD_LAB": "1", "LAB_OUTPUT": "/lab/output"}
    environment["PATH"] = f"{config['inside']}/bin:{passed.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin"
    try:
        process = subprocess.Popen(
            request["argv"],
            cwd=request["cwd"] if os.path.isdir(request["cwd"]) else "/",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        return {"error": f"{request['argv'][0]}: {error.strerror}"}
    sending = threading.Lock()
    pumps = [
        threading.Thread(target=_pump, args=(stream, kind, connection, sending), daemon=True)
        for stream, kind in ((process.stdout, wire.OUT), (process.stderr, wire.ERR))
    ]
    threading.Thread(target=_kill_when_gone, args=(connection, process), daemon=True).start()
    for pump in pumps:
        pump.start()
    status = process.wait()
    for pump in pumps:
        # A daemon that the command left behind may hold the pipe open for ever.
        pump.join(timeout=2)
    return {"status": status if status >= 0 else 128 - status}


def _pump(stream: Any, kind: bytes, connection: socket.socket, sending: threading.Lock) -> None:
    while data := os.read(stream.fileno(), 65536):
        try:
            with sending:
                wire.send(connection, kind, data)
        except OSError:
            return


def _kill_when_gone(connection: socket.socket, process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        connection.recv(1)
    for chosen, patience_s in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 0.0)):
        if process.poll() is not None:
            return
        try:
            os.killpg(process.pid, chosen)
        except ProcessLookupError:
            return
        time.sleep(patience_s)


def _power_off(_connection: socket.socket, _request: dict[str, Any], _config: dict[str, Any]) -> dict[str, Any]:
    """Save what was logged, then switch off shortly after the answer has gone out."""
    subprocess.run(["/lab/boot/power-off", "save"], check=False)
    threading.Timer(0.2, lambda: subprocess.run(["/lab/boot/power-off"], check=False)).start()
    return {"status": 0}


def _forward(connection: socket.socket, path: str) -> None:
    with connection, socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(path)
        except OSError:
            return
        back = threading.Thread(target=_copy, args=(server, connection), daemon=True)
        back.start()
        _copy(connection, server)
        back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


_OPERATIONS = {"ready": _ready, "exec": _execute, "poweroff": _power_off}

if __name__ == "__main__":
    main()
