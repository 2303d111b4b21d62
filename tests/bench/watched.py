"""The server of the watchers' benchmark, a process of its own: a store of made-up devices and VMs behind the real API.

It obeys lines of JSON on standard input and answers each with one: see `Orders`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio

from hostdevd.api.access import Access
from hostdevd.api.context import Context
from hostdevd.api.health import Health
from hostdevd.api.interceptors import ErrorSeam
from hostdevd.api.pages import Pages
from hostdevd.api.render import Renderer
from hostdevd.api.server import SERVICES, build_server
from hostdevd.api.watch import Hub
from hostdevd.core.caller import LOOPBACK
from hostdevd.core.history import ChangeSource
from hostdevd.core.model import PciFacts
from hostdevd.ops.logs import configure_logs
from unit.core.made import domain, entry, pci, store

VMS = 64
BURST = 256


def rss_kib() -> int:
    """Resident memory of this process."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


class Bare:
    """Streams that are sent the same bytes, by nothing but the library: what the delay of ours is held against."""

    def __init__(self) -> None:
        self.queues: set[asyncio.Queue[bytes]] = set()

    async def watch(self, _request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """One stream."""
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.queues.add(queue)
        try:
            while True:
                await context.write(await queue.get())
        finally:
            self.queues.discard(queue)

    def send(self, message: bytes) -> None:
        """To all streams."""
        for queue in self.queues:
            queue.put_nowait(message)


class Orders:
    """What the benchmark may have done to the store."""

    def __init__(self) -> None:
        self.store = store()
        self.functions = [pci(f"{1 + n // 32:02x}:{n % 32:02x}.0", group=n) for n in range(VMS)]
        sync: Any = SimpleNamespace(first_sync=True, synced_time=None, info=None)
        self.hub = Hub(self.store, sync)
        self._turn = 0
        self.bare = Bare()
        with self.store.change(ChangeSource.RECONCILE):
            self.store.put_devices(self.functions)
        for _ in range(VMS):
            self._flip()

    def _flip(self) -> None:
        number, self._turn = self._turn % VMS, self._turn + 1
        facts = self.functions[number].facts
        assert isinstance(facts, PciFacts)
        made = domain(f"vm{number}", None, (entry(facts.address, f"ua-{self._turn}"),))
        with self.store.change(ChangeSource.EVENT):
            self.store.put_domains([made])

    async def change(self, count: int, pause_s: float = 0.0) -> dict[str, Any]:
        """So many changes of holders, one commit each; how long one took the loop at most."""
        longest, last = 0.0, time.monotonic()
        for _ in range(count):
            self._flip()
            await asyncio.sleep(pause_s)
            now = time.monotonic()
            longest, last = max(longest, now - last), now
        return {"revision": self.store.revision, "longest_s": longest}

    async def events(self, count: int, gap_s: float) -> dict[str, Any]:
        """Events from a thread, as libvirt's come: the times at which a plain callback on the loop hears of them."""
        return {"heard": await _heard(count, gap_s, self._flip), "revision": self.store.revision}

    async def bare_events(self, count: int, gap_s: float, message: str) -> dict[str, Any]:
        """The same, told by the bare streams: they send this message, in hex."""
        return {"heard": await _heard(count, gap_s, lambda: self.bare.send(bytes.fromhex(message)))}

    async def burst(self) -> dict[str, Any]:
        """Devices that appear one after the other, about one in a millisecond."""
        for n in range(BURST):
            with self.store.change(ChangeSource.EVENT):
                self.store.put_devices([pci(f"{0x80 + n // 32:02x}:{n % 32:02x}.0", group=1000 + n)])
            await asyncio.sleep(0.001)
        return {"revision": self.store.revision}

    async def look(self) -> dict[str, Any]:
        """Memory, and how many watch."""
        return {
            "rss_kib": rss_kib(),
            "watchers": self.hub.watchers,
            "bare": len(self.bare.queues),
            "revision": self.store.revision,
        }


async def _heard(count: int, gap_s: float, work: Callable[[], object]) -> list[float]:
    loop, heard = asyncio.get_running_loop(), list[float]()

    def hear() -> None:
        heard.append(time.monotonic())
        work()

    for _ in range(count):
        await asyncio.to_thread(loop.call_soon_threadsafe, hear)
        await asyncio.sleep(gap_s)
    return heard


async def main(address: str) -> None:
    """Serve at the address until standard input ends."""
    configure_logs("warning", "json")  # standard output is for answers
    orders = Orders()
    context = Context(
        store=orders.store,
        sync=orders.hub.sync,
        engine=SimpleNamespace(),  # type: ignore[arg-type]
        admin=SimpleNamespace(),  # type: ignore[arg-type]
        pages=Pages(time.monotonic),
        renderer=Renderer(orders.store, lambda: "host"),
        hub=orders.hub,
        access=Access(orders.store, None, lambda _: LOOPBACK),
        audit=SimpleNamespace(),  # type: ignore[arg-type]
        now=time.time,
        checks=lambda: asyncio.sleep(0, ()),
    )
    server = build_server(context, Health(SERVICES), ErrorSeam(), with_reflection=False)
    methods: dict[str, Any] = {"Watch": grpc.unary_stream_rpc_method_handler(orders.bare.watch)}
    bare = grpc.aio.server()  # of its own: nothing of ours stands before it
    bare.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare.Bare", methods),))
    bare.add_insecure_port(f"{address}.bare")
    await bare.start()
    server.add_insecure_port(address)
    await server.start()
    print(json.dumps({}), flush=True)  # noqa: T201  the answer to the start
    while line := await asyncio.to_thread(sys.stdin.readline):
        name, arguments = json.loads(line)
        print(json.dumps(await getattr(orders, name)(**arguments)), flush=True)  # noqa: T201  the protocol
    await bare.stop(grace=None)
    await server.stop(grace=None)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
