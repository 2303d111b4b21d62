"""Entry point of ``lab-guest``, ``lab-qmp`` and ``lab-topology``, the lab's own commands."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from .errors import LabError, end_with
from .lookup import Lookup
from .qmp import Monitor
from .shell import in_guest
from .topology import parse

# Emulated, on a machine that may be busy: a limit costs nothing when the answer comes.
_GUEST_S = 180.0
_UNPLUG_S = 180.0


def guest(argv: list[str]) -> int:
    """``lab-guest [--timeout S] NAME COMMAND…``: the command's output and exit status."""
    parser = argparse.ArgumentParser("lab-guest", description="run a shell command inside a guest")
    parser.add_argument("--timeout", type=float, default=_GUEST_S)
    parser.add_argument("name")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(argv)
    if not options.command:
        parser.error("a command is needed")
    status, output = in_guest(options.name, " ".join(options.command), timeout_s=options.timeout)
    sys.stdout.buffer.write(output)
    sys.stdout.flush()
    return status


def qmp(argv: list[str]) -> int:
    """``lab-qmp COMMAND [KEY=VALUE…]``; ``device_del`` waits until the device is gone."""
    parser = argparse.ArgumentParser("lab-qmp", description="talk to the QEMU that runs the lab host")
    parser.add_argument(
        "--wait", type=float, default=_UNPLUG_S, help="seconds device_del waits for the removal (0: no wait)"
    )
    parser.add_argument("command", help="a QMP command, or hmp")
    parser.add_argument("arguments", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args(argv)
    with Monitor() as monitor:
        if options.command == "hmp":
            print(monitor.execute("human-monitor-command", **{"command-line": " ".join(options.arguments)}), end="")
            return 0
        arguments = dict(_argument(text) for text in options.arguments)
        answer = monitor.execute(options.command, **arguments)
        if (
            options.command == "device_del"
            and options.wait > 0
            and not monitor.wait_deleted(str(arguments["id"]), options.wait)
        ):
            raise LabError(f"{arguments['id']} was asked to leave and has not")
    if answer:
        print(json.dumps(answer, indent=1))
    return 0


def topology(argv: list[str]) -> int:
    """``lab-topology [ROLE [KEY]]``: everything, one role, or one value of it as plain text."""
    parser = argparse.ArgumentParser("lab-topology", description="which device is which role")
    parser.add_argument("role", nargs="?")
    parser.add_argument("key", nargs="?")
    options = parser.parse_args(argv)
    found: Any = Lookup(parse(Path("/lab/config/topology.toml").read_text())).everything()
    if options.role:
        if options.role not in found["devices"]:
            raise LabError(f"no role {options.role!r}", hint=" ".join(sorted(found["devices"])))
        found = found["devices"][options.role]
    if options.key:
        if options.key not in found:
            raise LabError(f"{options.role} has no {options.key!r} now", hint=" ".join(found))
        value = found[options.key]
        print(" ".join(map(str, value)) if isinstance(value, list) else value)
        return 0
    print(json.dumps(found, indent=1))
    return 0


def _argument(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise LabError(f"{text!r} is not KEY=VALUE")
    if value in ("true", "false"):
        return key, value == "true"
    # Only a plain number is one: port=3 of a USB device is text for QEMU, which takes both.
    return key, value


if __name__ == "__main__":
    _COMMANDS = {"guest": guest, "qmp": qmp, "topology": topology}
    end_with(lambda: _COMMANDS[sys.argv[1]](sys.argv[2:]), f"lab-{sys.argv[1]}")
