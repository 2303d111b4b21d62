"""The rows of a result: what is measured, against which bar; as lines, as JSON, and as the document that is kept."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: `value` against `bar`; `better` is `<=` or `>=`. Without a bar it is told for itself."""

    number: str
    what: str
    value: float | str
    bar: float | None = None
    better: str = "<="

    @property
    def verdict(self) -> str:
        """Whether the bar is met; empty where there is none."""
        if self.bar is None or isinstance(self.value, str):
            return ""
        met = self.value <= self.bar if self.better == "<=" else self.value >= self.bar
        return "met" if met else "MISSED"

    @property
    def shown(self) -> tuple[str, str]:
        """The value and the bar for people."""
        value = f"{self.value:.3g}" if isinstance(self.value, float) and self.value < 1000 else f"{self.value:.0f}" \
            if isinstance(self.value, float) else str(self.value)  # fmt: skip
        return value, f"{self.better} {self.bar:g}" if self.bar is not None else ""


def show(row: Row) -> None:
    """One line on standard output."""
    value, bar = row.shown
    print(f"{row.number:5} {row.what:92} {value:>10} {bar:>8} {row.verdict}", flush=True)  # noqa: T201


def machine() -> Mapping[str, str]:
    """What it was measured on."""
    cpu = _value("/proc/cpuinfo", "model name")
    memory = _value("/proc/meminfo", "MemTotal").split()[0]
    return {
        "time": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "system": platform.platform(),
        "processor": f"{os.cpu_count()} x {cpu}",
        "memory_gib": f"{int(memory) / 1024 / 1024:.0f}",
        "load_before": f"{os.getloadavg()[0]:.2f}",
        "python": platform.python_version(),
        **{name: version(name) for name in ("grpcio", "protobuf", "libvirt-python", "lxml")},
    }


def _value(path: str, key: str) -> str:
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith(key)).partition(":")[2].strip()


def save_json(path: Path, about: Mapping[str, str], rows: Sequence[Row]) -> None:
    """For programs."""
    told = [
        {"row": row.number, "what": row.what, "value": row.value, "bar": row.bar, "verdict": row.verdict}
        for row in rows
    ]
    path.write_text(json.dumps({"machine": dict(about), "rows": told}, indent=1) + "\n", encoding="utf-8")


def as_document(about: Mapping[str, str], rows: Sequence[Row]) -> str:
    """For people: the part of docs/benchmarks.md between its marks."""
    lines = [", ".join(f"{name.replace('_', ' ')} {value}" for name, value in about.items()) + ".", ""]
    lines += ["| row | what | value | bar | |", "|---|---|--:|---|---|"]
    lines += [f"| {row.number} | {row.what} | {' | '.join(row.shown)} | {row.verdict} |" for row in rows]
    return "\n".join(lines)
