"""What the service knows of itself anyway, as Prometheus metrics: read when they are scraped, from memory alone.

Called on the scraping thread. Nothing here asks libvirt, and nothing grows with the number of devices: what
there is by the thousand is counted as it changes (`core/tally`).
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from hostdevd import __version__
from hostdevd.core.journal import Journal
from hostdevd.core.ports import HypervisorPort, Workers
from hostdevd.core.store import Store
from hostdevd.core.sync import Sync

Samples = Mapping[tuple[str, ...], float]
"""Values by the values of the labels."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the numbers stand."""

    store: Store
    sync: Sync
    journal: Journal
    hypervisor: HypervisorPort
    watchers: Callable[[], int]
    now: Callable[[], float]
    """Seconds since the epoch."""
    since: float
    """When the service began, by the same clock."""
    certificate_ends: Callable[[], Mapping[str, float]]
    """When the certificates in force end, by the option of `[tls]`; nothing without TLS."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One metric: its name without `hostdevd_`, what it means, its labels, and how it is read."""

    name: str
    help: str
    read: Callable[[Sources], Samples]
    labels: tuple[str, ...] = ()
    kind: Literal["gauge", "counter"] = "gauge"

    def family(self, sources: Sources) -> Metric:
        """The metric of now."""
        make = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        family = make(f"hostdevd_{self.name}", self.help, labels=self.labels)
        for labels, value in sorted(self.read(sources).items()):
            family.add_metric(labels, value)
        return family


def _one(value: float) -> Samples:
    return {(): value}


def _keyed(values: Mapping[str, float]) -> Samples:
    return {(key,): value for key, value in values.items()}


def _sync_age_s(sources: Sources) -> Samples:
    synced = sources.sync.synced_time
    return _one(max(sources.now() - (synced.timestamp() if synced else sources.since), 0.0))


def _oldest_operation_s(sources: Sources) -> Samples:
    since = sources.store.tally.oldest_open()
    return _one(max(sources.now() - since, 0.0) if since is not None else 0.0)


def _threads(number: Callable[[Workers], int]) -> Callable[[Sources], Samples]:
    return lambda sources: _keyed({name: number(pool) for name, pool in sources.hypervisor.workers().items()})


def _queues(sources: Sources) -> Samples:
    store = sources.store
    depths = {f"libvirt_{name}": pool.waiting for name, pool in sources.hypervisor.workers().items()}
    depths |= {f"follow_{name}": count for name, count in sources.sync.pending.items()}
    depths["history_devices"] = store.device_history.changes
    depths["history_holders"] = store.holder_history.changes
    depths["unsaved_identities"] = len(store.identities.unsaved)
    return _keyed(depths)


READINGS = (
    Reading("build_info", "1; its labels say what runs.",
            lambda _: {(__version__, platform.python_version()): 1}, ("version", "python")),
    # --- what there is
    Reading("devices", "Devices that are listed, by type and state: eligible (and free), taken, ineligible.",
            lambda s: s.store.tally.devices.read(), ("type", "state")),
    Reading("ineligible_devices", "Devices that may not be assigned, by type and reason; each under all its reasons.",
            lambda s: s.store.tally.device_reasons.read(), ("type", "reason")),
    Reading("groups", "IOMMU groups, by state as devices.",
            lambda s: s.store.tally.groups.read(), ("state",)),
    Reading("ineligible_groups", "IOMMU groups that may not be assigned, by reason; each under all its reasons.",
            lambda s: s.store.tally.group_reasons.read(), ("reason",)),
    Reading("holders", "Devices held by VMs, one per device and VM, by the element of its XML and whose work it is.",
            lambda s: s.store.tally.holders.read(), ("via", "owner")),
    Reading("assignments", "Records of assignments, by state.",
            lambda s: s.store.tally.assignments.read(), ("state",)),
    Reading("assignment_conditions", "Conditions of assignments, one per device, by code and the assignment's state.",
            lambda s: s.store.tally.conditions.read(), ("code", "state")),
    Reading("oldest_operation_age_seconds", "Age of the oldest operation in the journal that has not ended; 0 without.",
            _oldest_operation_s),
    Reading("domains", "Virtual machines that libvirt has, running or not.", lambda s: _one(len(s.store.domains))),
    Reading("revision", "The revision of the state that is shown.", lambda s: _one(s.store.revision)),
    # --- libvirt
    Reading("libvirt_connected", "1 while libvirt answers and the state equals it, else 0.",
            lambda s: _one(int(s.sync.connected))),
    Reading("libvirt_connects", "Connections to libvirt that were made; the first is no reconnect.",
            lambda s: _one(s.sync.connects), kind="counter"),
    Reading("libvirt_disconnects", "Connections to libvirt that broke.",
            lambda s: _one(s.sync.disconnects), kind="counter"),
    Reading("libvirt_calls", "Calls into libvirt, by its function.",
            lambda s: _keyed(s.hypervisor.call_counts()), ("call",), "counter"),
    Reading("libvirt_threads_busy", "Threads that have a job, by pool.", _threads(lambda one: one.busy), ("pool",)),
    Reading("libvirt_threads_stuck", "Jobs that nobody waits for any more, and that libvirt has not ended, by pool.",
            _threads(lambda one: one.stuck), ("pool",)),
    Reading("sync_age_seconds", "Since the state was last found equal to libvirt's; before that, since the start.",
            _sync_age_s),
    # --- the service
    Reading("watchers", "Open watch streams.", lambda s: _one(s.watchers())),
    Reading("queue_depth", "What waits, or is kept, by queue.", _queues, ("queue",)),
    Reading("state_store_fault", "1 while the state store cannot be used, else 0.",
            lambda s: _one(int(s.journal.fault is not None))),
    Reading("state_store_failures", "Times that the state store could not be opened or written.",
            lambda s: _one(s.journal.failures), kind="counter"),
    Reading("tls_certificate_expiry_timestamp_seconds",
            "When the first of a file's certificates ends, by the option of `[tls]`; nothing without TLS.",
            lambda s: _keyed(s.certificate_ends()), ("file",)),
    Reading("state_store_bytes", "What the state store takes on the disk.", lambda s: _one(s.journal.size_bytes())),
)  # fmt: skip


class Readings(Collector):
    """All of them."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        """The metrics of now."""
        for reading in READINGS:
            yield reading.family(self._sources)

    def describe(self) -> Iterator[Metric]:
        """Their names: nothing is read for them."""
        for reading in READINGS:
            make = CounterMetricFamily if reading.kind == "counter" else GaugeMetricFamily
            yield make(f"hostdevd_{reading.name}", reading.help, labels=reading.labels)
