"""S10, in the lab: attach and detach of a card by hostdevd, beside the same libvirt calls made directly.

deploy/lab/run -- .venv/bin/python tests/bench/lab_attach.py [--pairs N] prints the medians of N pairs as JSON. The
second for which hostdevd looks whether the guest throws the card out again is subtracted: the others do not look.
After them some more by hostdevd, beside a client that asks for a device all the while: how long it waits at most, since
a card is locked in the kernel while a guest gets it, and nobody else may notice (S12).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [
    str(ROOT / part) for part in ("tests", "tests/contract", "server", "clients/python")
]  # run as a program

import libvirt  # noqa: E402
from api import Api, eventually  # noqa: E402
from hosts import lab_roles, managed_pci  # noqa: E402

from hostdev.v1 import assignment_pb2  # noqa: E402
from hostdevd.core.steps import Delays  # noqa: E402
from hostdevd.virt.xml.hostdev import build_hostdev  # noqa: E402
from lab.own_service import serving  # noqa: E402

VM = "alpha"
ALIAS = "ua-bench"
LEAVE_S = 120.0
QUIET_S = 2.0
BESIDE = 4
"""Pairs beside a client that asks."""
BETWEEN_S = 0.05


class Direct:
    """What anybody would write with libvirt: take from the host, attach, ask to detach, wait, give back."""

    def __init__(self, name: str, xml: str) -> None:
        libvirt.virEventRegisterDefaultImpl()
        threading.Thread(target=self._events, daemon=True).start()
        self._name, self._xml = name, xml
        self._connection = libvirt.open("qemu:///system")
        self._left = threading.Event()
        event = libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED
        self._connection.domainEventRegisterAny(None, event, self._removed, None)

    @staticmethod
    def _events() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    def _removed(self, _connection: object, _domain: object, alias: str, _opaque: object) -> None:
        if alias == ALIAS:
            self._left.set()

    def __call__(self) -> None:
        """Attach and detach once."""
        device = self._connection.nodeDeviceLookupByName(self._name)
        domain = self._connection.lookupByName(VM)
        self._left.clear()
        device.detachFlags(None, 0)
        domain.attachDeviceFlags(self._xml, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        if ALIAS not in domain.XMLDesc(0):
            raise RuntimeError("it is not there")
        domain.detachDeviceAlias(ALIAS, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        if not self._left.wait(LEAVE_S):
            raise RuntimeError("the guest does not let go")
        device.reAttach()


def ours(api: Api, name: str) -> None:
    """Attach and detach once by hostdevd."""
    assignment = api.attach(VM, name, scope=assignment_pb2.SCOPE_LIVE)
    api.detach(assignment=assignment.name)


def at_rest(api: Api, name: str) -> None:
    """Wait until an attach would be let in: QEMU closes a card's group a moment after it has let go of it."""
    time.sleep(QUIET_S)  # what the direct calls did reaches hostdevd by events
    eventually(lambda: api.plan(VM, name, scope=assignment_pb2.SCOPE_LIVE).blockers, lambda blockers: not blockers)


class Asking(threading.Thread):
    """A client that asks for a device again and again; `longest_s` is what it waited for an answer at most."""

    def __init__(self, api: Api, name: str) -> None:
        super().__init__(daemon=True)
        self._api, self._name = api, name
        self._over = threading.Event()
        self.longest_s = 0.0

    def run(self) -> None:
        """Ask until it is over."""
        while not self._over.wait(BETWEEN_S):
            began = time.monotonic()
            self._api.device(self._name)
            self.longest_s = max(self.longest_s, time.monotonic() - began)

    def end(self) -> float:
        """Stop; the longest wait."""
        self._over.set()
        self.join()
        return self.longest_s


def main() -> None:
    """Measure pairs in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20)
    pairs = parser.parse_args().pairs
    name = lab_roles()["nic_single"]
    with tempfile.TemporaryDirectory() as directory, serving(Path(directory)) as life:
        api = life.api
        at_rest(api, name)
        direct = Direct(name, build_hostdev(managed_pci(api, name, ALIAS)))
        took: list[tuple[float, float]] = []
        for _ in range(pairs):
            began = time.monotonic()
            ours(api, name)
            between = time.monotonic()
            at_rest(api, name)
            again = time.monotonic()
            direct()
            took.append((between - began - Delays().settle_s, time.monotonic() - again))
            at_rest(api, name)
        idle = Asking(api, name)
        idle.start()
        time.sleep(5 * QUIET_S)
        alone_s, waits = idle.end(), list[float]()
        for _ in range(BESIDE):
            asking = Asking(api, name)
            asking.start()
            ours(api, name)
            waits.append(asking.end())
            at_rest(api, name)
    found = {
        "row": "S10",
        "pairs": pairs,
        "hostdevd_s": statistics.median(a for a, _ in took),
        "direct_s": statistics.median(b for _, b in took),
        "ratio (<= 1.25)": statistics.median(a / b for a, b in took),
        "longest wait of another client, alone_s": alone_s,
        "longest wait of another client beside an attach and a detach, s": statistics.median(waits),
    }
    print(json.dumps(found, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
