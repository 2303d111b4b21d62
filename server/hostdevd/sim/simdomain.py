"""A domain of the simulated host: its documents, its state."""

from __future__ import annotations

from dataclasses import dataclass, field

from hostdevd.core.model import Domain, DomainDef, DomainEntry, Vm, VmState
from hostdevd.virt.xml.domain import domain_def, network_macs


@dataclass(slots=True)
class SimDomain:
    """One domain; `live` is None without a guest, `config` None for a transient one.

    The documents are replaced, never changed in place: what was read of them is kept beside them.
    """

    name: str
    uuid: str
    state: VmState
    live: str | None
    config: str | None
    managed_save: bool = False
    _read: dict[str, DomainDef] = field(default_factory=dict, repr=False)

    def live_entries(self) -> tuple[DomainEntry, ...]:
        """What the running guest has; nothing without one."""
        return () if self.live is None else self._definition(self.live).entries

    def domain(self) -> Domain:
        """The domain as the port tells of it."""
        return Domain(
            vm=Vm(self.name, self.uuid, self.state, self.config is not None, self.managed_save),
            live=None if self.live is None else self._definition(self.live),
            config=None if self.config is None else self._definition(self.config),
        )

    def _definition(self, xml: str) -> DomainDef:
        if xml not in self._read:
            current = {self.live, self.config}
            self._read = {text: read for text, read in self._read.items() if text in current}
            # A function from a network's pool looks like any other in the live XML, but for its MAC.
            pool = network_macs(self.config) if xml == self.live and self.config is not None else frozenset()
            self._read[xml] = domain_def(xml, pool)
        return self._read[xml]
