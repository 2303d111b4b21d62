"""The vectors as a program replays them: placeholders filled in, answers compared, values captured.

Knows nothing of gRPC: whoever replays hands over a `Caller` of the client under test.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

ANY = "<any>"
"""As an expectation: whatever is there, but something."""

VECTORS = Path(__file__).parent

Json = Any
Caller = Callable[[str, Mapping[str, Json], int], dict[str, Json]]
"""Makes one call: its name, the request, how many messages of a stream to await (0: it is no stream).

The outcome has one key: `response`, `messages` or `error`.
"""

_PLACEHOLDER = re.compile(r"\$\{(\w+)\}")
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
_OUTCOMES = ("response", "messages", "error")


def names() -> list[str]:
    """The vectors there are, by file name without suffix."""
    return sorted(path.stem for path in VECTORS.glob("*.json"))


def load(name: str) -> dict[str, Json]:
    """One vector."""
    vector: dict[str, Json] = json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))
    return vector


def filled(value: Json, captured: Mapping[str, str]) -> Json:
    """The value with every `${name}`, also inside a longer string, replaced by what was captured."""
    match value:
        case str():
            return _PLACEHOLDER.sub(lambda found: captured[found[1]], value)
        case list():
            return [filled(one, captured) for one in value]
        case dict():
            return {key: filled(one, captured) for key, one in value.items()}
    return value


def at(answer: Json, path: str) -> Json:
    """What stands at a path: `devices[0].uid`."""
    for key, index in _STEP.findall(path):
        answer = answer[key] if key else answer[int(index)]
    return answer


def differences(expected: Json, found: Json, where: str = "") -> Iterator[str]:
    """Where an answer is not as expected, a line each."""
    if expected == ANY:
        return
    match expected, found:
        case dict(), dict():
            for key in sorted({*expected, *found}):
                path = f"{where}.{key}" if where else key
                if key not in found:
                    yield f"{path} is missing, expected {expected[key]!r}"
                elif key not in expected:
                    yield f"{path} is {found[key]!r}, expected to be absent"
                else:
                    yield from differences(expected[key], found[key], path)
        case list(), list():
            if len(expected) != len(found):
                yield f"{where} has {len(found)} entries, expected {len(expected)}: {found!r}"
            for index, (wanted, one) in enumerate(zip(expected, found, strict=False)):
                yield from differences(wanted, one, f"{where}[{index}]")
        case _:
            if expected != found or type(expected) is not type(found):
                yield f"{where} is {found!r}, expected {expected!r}"


def messages_of(step: Mapping[str, Json]) -> int:
    """How many messages of its stream a step awaits; 0 when it is no stream."""
    return len(step.get("messages", ())) or ("Watch" in step["call"])


def capture(step: Mapping[str, Json], outcome: Mapping[str, Json], captured: dict[str, str]) -> None:
    """Keep what the step wants kept."""
    for name, path in step.get("capture", {}).items():
        captured[name] = at(outcome.get("response", outcome.get("messages")), path)


def replay(vector: Mapping[str, Json], call: Caller) -> Iterator[str]:
    """Make all calls of a vector; a line for each difference."""
    captured: dict[str, str] = {}
    for number, step in enumerate(vector["steps"], start=1):
        outcome = call(step["call"], filled(step["request"], captured), messages_of(step))
        expected = {key: filled(step[key], captured) for key in _OUTCOMES if key in step}
        found = list(differences(expected, outcome))
        yield from (f"step {number}, {step['call']}: {one}" for one in found)
        if found:
            return  # what follows builds on it
        capture(step, outcome, captured)
