"""Virtual functions of the running host: read in sysfs, set by the root helper behind its socket."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from hostdevd.core.addresses import PciAddress
from hostdevd.core.ports import FunctionCounts, FunctionsError, FunctionsFault
from hostdevd.host.drivers import PCI_DEVICES
from hostdevd.host.sysfs import HostTree
from hostdevd.sriov.messages import MAX_LINE_BYTES, Answer, Outcome, Request

T = TypeVar("T")

_FAULTS = {
    Outcome.NOT_ALLOWED: FunctionsFault.NOT_ALLOWED,
    Outcome.IN_USE: FunctionsFault.IN_USE,
    Outcome.INVALID: FunctionsFault.FAILED,
    Outcome.FAILED: FunctionsFault.FAILED,
}
_NOT_THERE = frozenset({errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR})
_ENABLE = "systemctl enable --now hostdevd-sriov.socket"


class SriovHelper:
    """Speaks with `hostdevd-sriov`; `socket` is the option `sriov.socket`."""

    def __init__(self, tree: HostTree, socket: Path) -> None:
        self._tree = tree
        self._socket = socket

    async def counts(self, address: PciAddress) -> FunctionCounts | None:
        """How many there are and can be; None without SR-IOV."""

        def read() -> FunctionCounts | None:
            path = f"{PCI_DEVICES}/{address}"
            total, now = self._tree.value(f"{path}/sriov_totalvfs"), self._tree.value(f"{path}/sriov_numvfs")
            return FunctionCounts(int(now), int(total)) if total.isdecimal() and now.isdecimal() else None

        return await _aside(read)

    async def set(self, address: PciAddress, count: int) -> None:
        """Have the helper write, and wait for it without a limit."""
        if not self._tree.live:
            raise FunctionsError(FunctionsFault.NO_HELPER, "this service reads a recorded host, which cannot change")
        answer = await self._asked(Request(str(address), count))
        if answer.outcome is not Outcome.DONE:
            raise FunctionsError(_FAULTS[answer.outcome], answer.message)

    async def _asked(self, request: Request) -> Answer:
        try:
            reader, writer = await asyncio.open_unix_connection(str(self._socket), limit=MAX_LINE_BYTES)
        except OSError as error:
            raise self._not_reached(error) from error
        try:
            writer.write(request.line())
            await writer.drain()
            return Answer.read(await reader.readuntil(b"\n"))
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            # The number that there is then is told beside this.
            text = "the helper hostdevd-sriov gave no answer (its log: journalctl -u hostdevd-sriov)"
            raise FunctionsError(FunctionsFault.FAILED, text) from error
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def _not_reached(self, error: OSError) -> FunctionsError:
        why = f"{self._socket}: {error.strerror or error}"
        if error.errno in _NOT_THERE:
            text = f"the helper that sets virtual functions is not there ({why}); switch it on: {_ENABLE}"
            return FunctionsError(FunctionsFault.NO_HELPER, text)
        text = f"the helper that sets virtual functions cannot be reached ({why}); its socket must let hostdevd in"
        return FunctionsError(FunctionsFault.NOT_ALLOWED, text)


async def _aside(work: Callable[[], T]) -> T:
    """Run on a thread of its own, for which nothing waits when the service stops.

    While a driver makes functions, or takes for ever to, the kernel keeps readers of their number waiting.
    """
    done: Future[T] = Future()

    def run() -> None:
        if not done.set_running_or_notify_cancel():
            return
        try:
            found = work()
        except BaseException as error:  # noqa: BLE001  whoever awaits gets it
            done.set_exception(error)
        else:
            done.set_result(found)

    threading.Thread(target=run, name="sriov-read", daemon=True).start()
    return await asyncio.wrap_future(done)
