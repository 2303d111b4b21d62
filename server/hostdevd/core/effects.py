"""The hands of the service, put together: what attach, detach and their undoing do to VMs and to the host."""

from __future__ import annotations

from hostdevd.core.clearing import Clearing
from hostdevd.core.giving import Giving
from hostdevd.core.journal import Journal
from hostdevd.core.looking import Looking
from hostdevd.core.observing import NOBODY, Observer
from hostdevd.core.ports import Clock, HostPort, HypervisorPort
from hostdevd.core.restoring import Restoring
from hostdevd.core.rewriting import Rewriting
from hostdevd.core.steps import Delays, Steps
from hostdevd.core.store import Store
from hostdevd.core.sync import Sync
from hostdevd.core.taking import Taking


class Effects:
    """Giving, taking and restoring on one host; one step at a time per VM."""

    def __init__(  # noqa: PLR0913, PLR0917  the ports, each once
        self,
        store: Store,
        sync: Sync,
        hypervisor: HypervisorPort,
        host: HostPort,
        journal: Journal,
        clock: Clock,
        delays: Delays | None = None,
        observer: Observer = NOBODY,
    ) -> None:
        delays = delays or Delays()
        steps = Steps(journal, clock, observer)
        self.looking = Looking(store, sync, host, clock)
        self.clearing = Clearing(hypervisor, self.looking, steps, delays)
        self.rewriting = Rewriting(hypervisor, self.looking, steps)
        self.giving = Giving(store, sync, hypervisor, host, self.looking, steps, delays)
        self.taking = Taking(hypervisor, self.looking, steps, clock, delays)
        self.restoring = Restoring(store, hypervisor, host, self.looking, steps, clock, delays)
