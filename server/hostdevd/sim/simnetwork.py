"""A network of the simulated host's libvirt: its document, its state."""

from __future__ import annotations

from dataclasses import dataclass

from hostdevd.core.model import Network
from hostdevd.virt.xml.network import network


@dataclass(slots=True)
class SimNetwork:
    """One network; only an active one hands anything out."""

    name: str
    uuid: str
    xml: str
    active: bool = True

    def pool(self) -> Network | None:
        """What it hands out; None for another kind of network."""
        return network(self.xml)
