"""The simulated host's state in a file, so that a restarted server finds the machine as it was.

Only what differs from the node file is kept of devices. The file belongs to one node file: with another one,
or a changed one, the machine starts anew.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog

from hostdevd.core.addresses import PciAddress
from hostdevd.core.model import HostUse, HostUseKind, VmState
from hostdevd.core.ports import IdentityFacts
from hostdevd.sim.extras import GuestBehaviour, Unplug
from hostdevd.sim.kernel import SimDevice
from hostdevd.sim.simdomain import SimDomain
from hostdevd.sim.simnetwork import SimNetwork
from hostdevd.sim.world import LibvirtMemory, Unplugging, World

log = structlog.get_logger()

STATE_FILE = "simulated-host.json"
_FORMAT = 2
_KEPT = ("xml", "driver", "override", "plugged", "lasting")


class SavedHost:
    """The state file of one world; `origin` tells the node file's contents."""

    def __init__(self, directory: Path, origin: str, world: World) -> None:
        self._path = directory / STATE_FILE
        self._origin = origin
        self._world = world
        self._told = False
        self._initial = {name: _device(device) for name, device in world.kernel.devices.items()}

    def load(self) -> bool:
        """Bring the world to the saved state; False when there is none of this host.

        ValueError naming the file when it cannot be read.
        """
        try:
            saved = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return False
        except (OSError, ValueError) as error:
            raise ValueError(f"{self._path}: {error}; remove it to start the simulated host anew") from error
        try:
            if saved["format"] != _FORMAT or saved["origin"] != self._origin:
                return False
            self._restore(saved)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{self._path}: not a state of a simulated host ({error!r}); remove it to start anew"
            ) from error
        return True

    def save(self) -> None:
        """Write the state; the old file stands until the new one is whole."""
        text = json.dumps(self._state(), indent=1)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_suffix(".new")
        # No fsync: the state outlives the process, and a power cut may cost a simulated host.
        new.write_text(text, encoding="utf-8")
        new.replace(self._path)

    def keep(self) -> None:
        """Save, if that can be done: on a full or read-only disk the machine lives as long as the process."""
        try:
            self.save()
        except OSError as error:
            if not self._told:
                log.warning("the simulated host is not saved", file=str(self._path), why=error.strerror)
            self._told = True
        else:
            self._told = False

    # --- writing -------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        world = self._world
        devices = {name: _device(device) for name, device in world.kernel.devices.items()}
        return {
            "format": _FORMAT,
            "origin": self._origin,
            "boot_id": world.boot_id,
            "devices": {name: state for name, state in devices.items() if state != self._initial.get(name)},
            "moved_away": sorted(self._initial.keys() - devices.keys()),
            "identities": {name: asdict(facts) for name, facts in world.identities.items()},
            "domains": [_domain(domain) for domain in world.domains.values()],
            "networks": [
                {"name": each.name, "uuid": each.uuid, "xml": each.xml, "active": each.active}
                for each in world.networks.values()
            ],
            "uses": {
                name: [{"kind": use.kind.value, "detail": use.detail} for use in uses]
                for name, uses in world.uses.items()
            },
            "guests": {
                name: {"unplug": each.unplug.value, "delay_s": each.delay_s, "eject_after_s": each.eject_after_s}
                for name, each in world.behaviour.items()
            },
            "gives_back": sorted(map(str, world.libvirt.gives_back)),
            "detached": sorted(map(str, world.libvirt.detached)),
            "unplugging": [
                {"uuid": each.uuid, "alias": each.alias, "due": each.due, "reject": each.reject}
                for each in world.unplugging.values()
            ],
        }

    # --- reading -------------------------------------------------------------------------------------

    def _restore(self, saved: dict[str, Any]) -> None:
        world = self._world
        world.boot_id = saved["boot_id"]
        for name in saved.get("moved_away", ()):
            del world.kernel.devices[name]
            world.kernel.graph.remove(name)
        if "identities" in saved:
            world.identities = {name: IdentityFacts(**facts) for name, facts in saved["identities"].items()}
        for name, state in saved["devices"].items():
            self._restore_device(name, state)
        world.domains = {
            each["uuid"]: SimDomain(
                each["name"], each["uuid"], VmState(each["state"]), each["live"], each["config"], each["managed_save"]
            )
            for each in saved["domains"]
        }
        world.networks = {
            each["name"]: SimNetwork(each["name"], each["uuid"], each["xml"], each["active"])
            for each in saved["networks"]
        }
        world.uses = {
            name: tuple(HostUse(HostUseKind(use["kind"]), use["detail"]) for use in uses)
            for name, uses in saved["uses"].items()
        }
        world.behaviour = {
            name: GuestBehaviour(Unplug(each["unplug"]), each["delay_s"], each["eject_after_s"])
            for name, each in saved["guests"].items()
        }
        world.libvirt = LibvirtMemory(
            gives_back=set(map(PciAddress.parse, saved["gives_back"])),
            detached=set(map(PciAddress.parse, saved["detached"])),
        )
        world.unplugging = {
            (each["uuid"], each["alias"]): Unplugging(each["uuid"], each["alias"], each["due"], each["reject"])
            for each in saved["unplugging"]
        }

    def _restore_device(self, name: str, state: dict[str, Any]) -> None:
        kernel = self._world.kernel
        device = kernel.devices.get(name)
        if device is None or device.xml != state["xml"]:
            device = kernel.add(state["xml"])
        device.driver, device.override, device.plugged = state["driver"], state["override"], state["plugged"]
        device.lasting = state["lasting"]
        if not device.plugged:
            kernel.graph.remove(name)


def _device(device: SimDevice) -> dict[str, Any]:
    return {key: getattr(device, key) for key in _KEPT}


def _domain(domain: SimDomain) -> dict[str, Any]:
    return {
        "name": domain.name,
        "uuid": domain.uuid,
        "state": domain.state.value,
        "live": domain.live,
        "config": domain.config,
        "managed_save": domain.managed_save,
    }
