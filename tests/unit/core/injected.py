"""What is injected into a running core: something at the nth call, and pictures of the disk at every one."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hostdevd.core.ports import HypervisorError
from unit.core.rig import Machine

Hook = Callable[[Machine, str], Awaitable[None]]


@dataclass
class Interference:
    """What happens at the nth call from now on; nothing while `at` is 0."""

    machine: Machine | None = None
    act: Hook | None = None
    at: int = 0
    seen: int = 0
    calls: list[str] = field(default_factory=list)

    async def __call__(self, name: str, _arguments: Mapping[str, object]) -> None:
        if self.machine is None:
            return
        self.seen += 1
        self.calls.append(name)
        if self.seen == self.at and self.act is not None:
            await self.act(self.machine, name)

    @contextmanager
    def during(self, on: Machine, at: int, act: Hook | None) -> Iterator[None]:
        self.machine, self.at, self.act, self.seen, self.calls = on, at, act, 0, []
        try:
            yield
        finally:
            self.machine = None


async def fail_before(_: Machine, name: str) -> None:
    raise HypervisorError(1, f"injected at {name}")


async def fail_after(on: Machine, name: str) -> None:
    on.sim.controls.fail_next(name, text=f"injected after {name}", after=True)


async def break_before(on: Machine, _name: str) -> None:
    on.sim.controls.disconnect()
    on.reconnect_soon()


async def break_after(on: Machine, name: str) -> None:
    on.sim.controls.fail_next(name, text=f"broken after {name}", after=True, gone=True)
    on.reconnect_soon()


FAULTS = {"before": fail_before, "after": fail_after, "gone before": break_before, "gone after": break_after}


@dataclass
class Camera:
    """Copies everything that is on disk at every call: what a kill -9 there would leave."""

    directory: Path
    to: Path
    on: bool = False
    pictures: list[Path] = field(default_factory=list)
    last: bytes = b""

    async def __call__(self, _name: str, _arguments: Mapping[str, object]) -> None:
        if self.on:
            self.take()

    def take(self) -> None:
        now = b"".join(path.read_bytes() for path in sorted(self.directory.iterdir()) if path.suffix != ".sqlite-shm")
        if now == self.last:
            return  # a call that read: a crash there is the same
        self.last = now
        picture = self.to / f"{len(self.pictures):03}"
        shutil.copytree(self.directory, picture)
        self.pictures.append(picture)
