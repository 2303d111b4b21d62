"""One simulated host, put together: the ports, and the hands behind them."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from pathlib import Path

from hostdevd.core.model import HypervisorInfo
from hostdevd.core.ports import Clock
from hostdevd.sim import lifecycle
from hostdevd.sim.controls import Controls
from hostdevd.sim.extras import Extras, check_names, read_extras
from hostdevd.sim.host import SimHost
from hostdevd.sim.hypervisor import BeforeCall, SimHypervisor
from hostdevd.sim.injection import Faults
from hostdevd.sim.inventory import prepare_devices
from hostdevd.sim.nodefile import NodeFile, read_node_file
from hostdevd.sim.persist import SavedHost
from hostdevd.sim.simdomain import SimDomain
from hostdevd.sim.simnetwork import SimNetwork
from hostdevd.sim.unplug import Guests
from hostdevd.sim.world import World
from hostdevd.virt.xml.capabilities import host_uuid

BUILT_IN = Path(__file__).parent / "builtin" / "host.xml"
"""The built-in host: every rule has a device or domain that shows it."""

_NAMESPACE = uuid.UUID("0f5a3f0e-1d4b-4f0b-8b56-52a1c1b0d9b4")


@dataclass(frozen=True, slots=True)
class Simulation:
    """A simulated host."""

    hypervisor: SimHypervisor
    host: SimHost
    controls: Controls
    world: World
    roles: dict[str, str]


def simulate(
    clock: Clock, file: Path | None = None, state_dir: Path | None = None, before_call: BeforeCall | None = None
) -> Simulation:
    """A host from a node file and the `.toml` beside it, or the built-in one.

    With `state_dir` it goes on where a simulation of the same file there ended. ValueError with one clear
    text for a broken file.
    """
    path = BUILT_IN if file is None else file
    beside = path.with_name(path.name + ".toml")
    nodes, extras = read_node_file(path), read_extras(beside)
    origin = _digest(nodes, extras)
    # Until it reboots it has been up since its first start; the state keeps what a reboot makes of it.
    world = World(extras, boot_id=str(uuid.uuid5(_NAMESPACE, origin)))
    for xml in prepare_devices(nodes.devices, iommu=extras.host.iommu):
        world.kernel.add(xml)
    world.kernel.complete()
    try:
        check_names(extras, world.kernel.devices, [domain.name for domain in nodes.domains])
    except ValueError as error:
        raise ValueError(f"{beside}: {error}") from None
    saved = None if state_dir is None else SavedHost(state_dir, origin, world)
    if saved is None or not saved.load():
        _load_libvirt(world, nodes, path)
    if saved is not None:
        world.on_change = saved.keep
        saved.keep()
    return _assemble(world, clock, path, extras, before_call)


def _load_libvirt(world: World, nodes: NodeFile, path: Path) -> None:
    world.networks = {told.name: SimNetwork(told.name, told.uuid, told.xml) for told in nodes.networks}
    for told in nodes.domains:
        domain = SimDomain(told.name, told.uuid, told.state, None, None, told.managed_save)
        try:
            lifecycle.load(world, domain, told.xml, persistent=told.persistent)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _assemble(world: World, clock: Clock, path: Path, extras: Extras, before_call: BeforeCall | None) -> Simulation:
    guests, faults = Guests(world, clock), Faults(extras.faults)
    hypervisor = SimHypervisor(world, guests, _info(world, path), faults, before_call)
    return Simulation(
        hypervisor=hypervisor,
        host=SimHost(world),
        controls=Controls(world, guests, hypervisor, faults),
        world=world,
        roles=dict(extras.roles),
    )


def _info(world: World, path: Path) -> HypervisorInfo:
    told = (host_uuid(device.xml) for device in world.kernel.devices.values() if device.node.type == "system")
    return HypervisorInfo(
        name=world.extras.host.name,
        uuid=next((found for found in told if found), str(uuid.uuid5(_NAMESPACE, world.extras.host.name))),
        connection_uri=f"simulate://{'/' if path == BUILT_IN else path.absolute()}",
        libvirt_version="9.0.0",
        hypervisor="QEMU",
        hypervisor_version="7.2.0",
    )


def _digest(nodes: NodeFile, extras: Extras) -> str:
    return hashlib.sha256(repr((nodes, extras)).encode()).hexdigest()
