#!/usr/bin/env python3
# ruff: noqa: T201, EXE001  a program, copied to where it is run from
"""In place of mdevctl: keeps definitions, starts nothing, and writes down what it was asked. Its state is beside it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

STATE = Path(__file__).parent / "state"


def main(arguments: list[str]) -> int:
    """Do as libvirt asks, as far as definitions go."""
    with (STATE / "asked").open("a") as asked:
        print(" ".join(arguments), file=asked)
    file = STATE / "defined.json"
    defined: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}
    verb, given = arguments[0], _options(arguments[1:])
    if verb == "list":
        shown = [{one["parent"]: [{uuid: one["config"]}]} for uuid, one in defined.items()]
        print(json.dumps(shown if "--defined" in arguments else []))
        return 0
    if verb == "start":
        print("the kernel has no such device", file=sys.stderr)
        return 1
    uuid = given.get("--uuid", given.get("-u", ""))
    if verb == "define":
        config = json.load(sys.stdin)
        defined[uuid] = {"parent": given.get("--parent", given.get("-p", "")), "config": config}
    elif verb == "undefine":
        del defined[uuid]
    elif verb == "modify":
        defined[uuid]["config"]["start"] = "auto" if "--auto" in arguments or "-a" in arguments else "manual"
    file.write_text(json.dumps(defined))
    return 0


def _options(words: list[str]) -> dict[str, str]:
    found = {}
    for word, after in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        found[name] = value if equals else after
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
