"""`hostdevd audit`: who asked to change what, and what became of it."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hostdevd.commands import Commands, add_config, complain
from hostdevd.config import ConfigError, load, named_file

FOLLOW_S = 0.5
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LINE = "{:24}  {:9}  {:20}  {:16}  {:16}  {:16}  {:28}  {}"
_SHOWN = 4
"""How many groups and devices of a row the table shows."""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "audit",
        help="show who asked to change what",
        description="Show the audit log of a state directory, oldest first, also while the service runs. "
        "TIME is 2026-11-26, 2026-11-26T08:00, with an offset or in local time, or 30m, 2h, 7d ago.",
    )
    parser.add_argument("--state-dir", metavar="DIR", help="the state directory (default the configured one)")
    add_config(parser)
    parser.add_argument("--since", metavar="TIME", type=_time, default=0.0, help="rows from then on")
    parser.add_argument("--until", metavar="TIME", type=_time, default=math.inf, help="rows before then")
    parser.add_argument("--caller", metavar="NAME", help="rows of this caller, uid:1000 say")
    parser.add_argument("--vm", metavar="VM", help="rows about this virtual machine, by name or UUID")
    parser.add_argument("--device", metavar="DEVICE", help="rows about this device, by libvirt name or uid")
    parser.add_argument("--follow", action="store_true", help="go on with what is added, until Ctrl-C")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="form; json is JSON lines")
    parser.set_defaults(run=run)


def _time(text: str) -> float:
    """Seconds since the epoch."""
    ago = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if ago is not None:
        return time.time() - int(ago[1]) * _UNITS[ago[2]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError) as error:  # no date, or one that no clock reaches
        why = f"{text!r} is no time: 2026-11-26, 2026-11-26T08:00, or 30m, 2h, 7d ago"
        raise argparse.ArgumentTypeError(why) from error


def run(given: argparse.Namespace) -> int:
    """Show it; 0, or 1 when it cannot be read."""
    from hostdevd.audit_reader import AuditError  # noqa: PLC0415  the other commands do without

    try:
        directory = Path(given.state_dir or load({}, os.environ, named_file(given.config)).state_dir)
        show = _json if given.output == "json" else _line
        if given.output == "table":
            print(_LINE.format("TIME", "OUTCOME", "CALLER", "GROUPS", "METHOD", "VM", "DEVICES", "DETAIL"))
        for row in _wanted(given, directory):
            print(show(row), flush=given.follow)
        sys.stdout.flush()
    except (ConfigError, AuditError) as error:
        return complain(error.faults if isinstance(error, ConfigError) else [str(error)])
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:  # `| head` has read enough; nothing is left to write when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _wanted(given: argparse.Namespace, directory: Path) -> Iterator[Mapping[str, Any]]:
    from hostdevd.audit_reader import rows  # noqa: PLC0415  the same

    after = 0
    while True:
        for row in rows(directory, after=after, since=given.since, until=given.until):
            after = row["id"]
            if _fits(given, row):
                yield row
        if not given.follow:
            return
        time.sleep(FOLLOW_S)


def _fits(given: argparse.Namespace, row: Mapping[str, Any]) -> bool:
    devices = {text for device in row["devices"] for text in (device["name"], device["uid"])}
    return (
        given.caller in {None, row["caller"]}
        and (given.vm is None or given.vm in {row["vm"], row["vm_uuid"]})
        and (given.device is None or given.device in devices)
    )


def _told_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(row: Mapping[str, Any]) -> str:
    return json.dumps({**row, "time": _told_time(row["time"])})


def _line(row: Mapping[str, Any]) -> str:
    groups, devices = map(str, row["gids"] or ()), (device["name"] for device in row["devices"])
    dry = "dry run" if row["dry_run"] and row["outcome"] == "REFUSED" else ""
    by = "by the read-only socket" if row["read_only"] else ""
    why = ": ".join(filter(None, (row["reason"], row["message"] or row["arguments"], dry, by)))
    texts = (row["caller"], _some(groups), row["method"], row["vm"], _some(devices), why)
    return _LINE.format(_told_time(row["time"]), row["outcome"], *map(_plain, texts)).rstrip()


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ",".join(names[:_SHOWN]) + more


def _plain(text: str) -> str:
    """Without what would do something to a terminal: much of it is what callers wrote."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
