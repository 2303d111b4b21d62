"""Stable identities: a device keeps its uid across reboot, bus renumbering and re-plug (rules.md).

Every device has identity keys, strongest first. The uid is made from the strongest when the device is
first seen and kept; a later lookup goes down the keys, and a weaker key counts only when it finds exactly
one known identity that no present device has taken by a stronger one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from hostdevd.core.graph import DeviceGraph
from hostdevd.core.model import (
    Facts,
    MdevFacts,
    NetFacts,
    NodeDevice,
    PciFacts,
    ScsiFacts,
    StorageFacts,
    UsbFacts,
)
from hostdevd.core.multimap import MultiMap
from hostdevd.core.ports import IdentityFacts

FactsOf = Callable[[NodeDevice], IdentityFacts]

_PLACE = "at|"
"""Begins the key that tells where a device is and not who: by it nothing is ever found again."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One uid with the keys by which it is found again, strongest first."""

    uid: str
    keys: tuple[str, ...]


def make_uid(key: str) -> str:
    """`dev-` and 24 hexadecimal digits; opaque, never parsed."""
    return "dev-" + hashlib.sha256(key.encode()).hexdigest()[:24]


def identity_keys(graph: DeviceGraph, device: NodeDevice, facts_of: FactsOf) -> tuple[str, ...]:
    """The keys of a device by its type, strongest first; never empty."""
    facts = device.facts
    if isinstance(facts, PciFacts):
        return _pci_keys(graph, facts, facts_of(device), facts_of)
    if isinstance(facts, UsbFacts):
        return _usb_keys(facts, facts_of(device))
    if isinstance(facts, ScsiFacts):
        return _scsi_keys(facts, facts_of(device))
    if isinstance(facts, MdevFacts):
        return (f"mdev|{facts.uuid}",)
    return (_other_key(graph, device, facts_of),)


def _pci_keys(graph: DeviceGraph, facts: PciFacts, told: IdentityFacts, facts_of: FactsOf) -> tuple[str, ...]:
    if facts.phys_function is not None:
        for name in graph.at(facts.phys_function):
            pf = graph.nodes[name]
            if isinstance(pf.facts, PciFacts) and facts.address in pf.facts.virt_functions:
                index = pf.facts.virt_functions.index(facts.address)
                parent = _pci_keys(graph, pf.facts, facts_of(pf), facts_of)
                return (f"vf|{parent[0]}|{index}",)
    place = f"{told.root or f'{facts.address.domain:04x}'}|{told.path or facts.address}"
    model = f"{facts.vendor_id:04x}:{facts.product_id:04x}:{told.subsystem}"
    serial = facts.vpd_serial or told.serial
    return (f"pci|{place}|{model}|{serial}", f"{_PLACE}{place}")


def _usb_keys(facts: UsbFacts, told: IdentityFacts) -> tuple[str, ...]:
    product = f"{facts.vendor_id:04x}:{facts.product_id:04x}"
    place = f"{told.root}|{told.path}" if told.path else f"{facts.address}"
    keys = [f"usb|{product}|{told.serial}|{told.interfaces}|{place}"]
    if told.serial:
        keys.append(f"usb-serial|{product}|{told.serial}")
    # The same thing in the same port that shows other interfaces now.
    keys.append(f"usb-port|{product}|{told.serial}|{place}")
    keys.append(f"{_PLACE}{place}")
    return tuple(keys)


def _scsi_keys(facts: ScsiFacts, told: IdentityFacts) -> tuple[str, ...]:
    name = told.wwid or told.serial
    path = told.path or str(facts.address)
    return (f"scsi|{name}|{path}", f"{_PLACE}{path}")


def _anchor(graph: DeviceGraph, device: NodeDevice) -> NodeDevice | None:
    """The nearest device above that has an identity of its own."""
    above = graph.ancestors(device.name)
    return next((one for one in above if isinstance(one.facts, PciFacts | UsbFacts | ScsiFacts)), None)


def _is_passing(graph: DeviceGraph, device: NodeDevice, facts_of: FactsOf) -> bool:
    """Whether what is told of a device now will not stay so.

    The host has nothing to tell of it: it is being pulled out. Or its PF does not list it for a moment.
    """
    if isinstance(device.facts, PciFacts) and device.facts.phys_function is not None:
        pfs = [graph.nodes[name].facts for name in graph.at(device.facts.phys_function)]
        if any(isinstance(pf, PciFacts) and device.facts.address not in pf.virt_functions for pf in pfs):
            return True
    own = isinstance(device.facts, PciFacts | UsbFacts | ScsiFacts)
    teller = device if own else _anchor(graph, device)
    return teller is not None and facts_of(teller) == IdentityFacts()


def _other_key(graph: DeviceGraph, device: NodeDevice, facts_of: FactsOf) -> str:
    anchor = _anchor(graph, device)
    place = identity_keys(graph, anchor, facts_of)[0] if anchor else "host"
    facts = device.facts
    own = ""
    if isinstance(facts, NetFacts):
        own = facts.mac or facts.interface
        if anchor is None:  # a bond and a bridge on it show one address
            own = f"{own}|{facts.interface}"
    elif isinstance(facts, StorageFacts):
        own = facts.wwn or facts.serial or ("" if anchor else facts.block)
    if not own:
        below = device.path or device.name
        # The kernel's path has numbers given in the order of discovery; the host knows one without them.
        own = facts_of(device).path or (below.removeprefix(anchor.path) if anchor and anchor.path else below)
    return f"{device.type}|{place}|{own}"


def _as_made(key: str, uids: Iterable[str]) -> list[str]:
    """Uids of one key in the order in which they are made for devices that share it."""
    left, made, uid = sorted(uids), list[str](), make_uid(key)
    for _ in range(len(left)):
        if uid in left:
            made.append(uid)
            left.remove(uid)
        uid = make_uid(f"{uid}+")
    return made + left


def _who(keys: tuple[str, ...]) -> tuple[str, ...]:
    """The keys without the place."""
    return tuple(key for key in keys if not key.startswith(_PLACE))


def _serial_left_out(key: str) -> str | None:
    """The key of a PCI function or VF as it is when no serial is told; None for a key of another kind."""
    kind, _, rest = key.partition("|")
    if kind == "vf":
        physical, _, index = rest.rpartition("|")
        left = _serial_left_out(physical)
        return f"vf|{left}|{index}" if left is not None else None
    return "|".join(key.split("|", 4)[:4]) + "|" if kind == "pci" else None


class Identities:
    """The uids of the devices that are here now, and of those that were here once.

    `resolve` is called with the whole inventory, or with what changed; new identities are collected in
    `unsaved` for the state store.
    """

    def __init__(self, known: Iterable[Identity] = ()) -> None:
        self.replace(known)

    def replace(self, known: Iterable[Identity]) -> None:
        """Begin anew with these, none of them here: every device is to be resolved again."""
        self._by_uid: dict[str, Identity] = {}
        self._by_key: MultiMap[str, str] = MultiMap()
        self._by_serial_left_out: MultiMap[str, str] = MultiMap()
        self._uid_of: dict[str, str] = {}
        self._name_of: dict[str, str] = {}
        self._keys_of: dict[str, tuple[str, ...]] = {}
        self._seen: dict[str, Facts | None] = {}
        self.unsaved: list[Identity] = []
        for identity in known:
            self._remember(identity)

    @property
    def names(self) -> Mapping[str, str]:
        """Uid to libvirt name, of the devices that are here."""
        return self._name_of

    def uid(self, name: str) -> str:
        """The uid of a device that is here; KeyError otherwise."""
        return self._uid_of[name]

    def get(self, name: str) -> str | None:
        """The uid of a device that is here, None otherwise."""
        return self._uid_of.get(name)

    def name(self, uid: str) -> str | None:
        """The libvirt name of the device with this uid, None when it is not here."""
        return self._name_of.get(uid)

    def candidates(self, uid: str) -> tuple[str, ...]:
        """The present devices that may be the one of this uid, where none is for certain."""
        identity = self._by_uid.get(uid)
        if identity is None or uid in self._name_of:
            return ()
        wanted = set(_who(identity.keys))
        return tuple(sorted(name for name, keys in self._keys_of.items() if not wanted.isdisjoint(keys)))

    def successor(self, uid: str) -> str | None:
        """The present device that is where the one of this uid was; None when that is here, or its place is empty."""
        identity = self._by_uid.get(uid)
        if identity is None or uid in self._name_of:
            return None
        places = {key for key in identity.keys if key.startswith(_PLACE)}
        return next((name for name, keys in sorted(self._keys_of.items()) if not places.isdisjoint(keys)), None)

    def keys(self, uid: str) -> tuple[str, ...]:
        """The keys by which the device of this uid is found again, strongest first; empty for an unknown uid."""
        identity = self._by_uid.get(uid)
        return _who(identity.keys) if identity is not None else ()

    def known(self, uid: str) -> bool:
        """Whether this uid was ever given."""
        return uid in self._by_uid

    def forget(self, names: Iterable[str]) -> None:
        """These devices are gone from the host; their identities are kept."""
        for name in names:
            uid = self._uid_of.pop(name, None)
            self._keys_of.pop(name, None)
            self._seen.pop(name, None)
            if uid is not None and self._name_of.get(uid) == name:
                del self._name_of[uid]

    def resolve(self, graph: DeviceGraph, names: Iterable[str], facts_of: FactsOf) -> None:
        """Give each of these present devices its uid: strongest keys first, over all of them."""
        names = tuple(names)
        todo = {name: keys for name in names if (keys := self._new_keys(graph, name, facts_of)) is not None}
        before = {name: self._uid_of.get(name) for name in todo}
        self.forget(todo)
        self._seen.update((name, graph.nodes[name].facts) for name in names)
        self._claim_equals(todo)
        for level in range(max(map(len, todo.values()), default=0)):
            for name, keys in list(todo.items()):
                if level < len(_who(keys)) and self._claim(name, keys, keys[level], among=todo.values()):
                    del todo[name]
        for name, keys in sorted(todo.items()):
            if not self._claim_by_untold_serial(name, keys, before[name]):
                self._create(name, keys)

    def is_stale(self, graph: DeviceGraph, name: str, facts_of: FactsOf) -> bool:
        """Whether the host tells now that a present device is another than the one it was."""
        return self._new_keys(graph, name, facts_of) is not None

    def _new_keys(self, graph: DeviceGraph, name: str, facts_of: FactsOf) -> tuple[str, ...] | None:
        node = graph.nodes[name]
        if name in self._uid_of and self._seen.get(name) == node.facts and _is_passing(graph, node, facts_of):
            return None  # it keeps its uid until libvirt says more
        keys = identity_keys(graph, node, facts_of)
        return keys if self._keys_of.get(name) != keys else None

    def _claim_by_untold_serial(self, name: str, keys: tuple[str, ...], before: str | None) -> bool:
        """A function of which the serial is told on one side only is the known one of its place and model.

        The VPD cannot be read while a function sleeps, as on vfio-pci without a user: that is no other card.
        """
        key = keys[0]
        left_out = _serial_left_out(key)
        if left_out is None:
            return False
        free = [
            uid
            for uid in self._by_serial_left_out.get(left_out)
            if uid not in self._name_of and left_out in {key, self._by_uid[uid].keys[0]}
        ]
        if before not in free and len(free) != 1:
            return False
        uid = before if before is not None and before in free else free[0]
        self._take(name, keys, uid)
        if key != left_out:
            self._remember(Identity(uid, keys), save=True)
        return True

    def _claim_equals(self, todo: dict[str, tuple[str, ...]]) -> None:
        """Where as many devices as known identities share a strongest key, they are paired in order."""
        equals: dict[str, list[str]] = {}
        for name, keys in todo.items():
            equals.setdefault(keys[0], []).append(name)
        for key, names in equals.items():
            free = [
                uid for uid in self._by_key.get(key) if uid not in self._name_of and self._by_uid[uid].keys[0] == key
            ]
            if len(names) > 1 and len(free) == len(names):
                for name, uid in zip(sorted(names), _as_made(key, free), strict=True):
                    self._take(name, todo.pop(name), uid)

    def _claim(self, name: str, keys: tuple[str, ...], key: str, among: Iterable[tuple[str, ...]]) -> bool:
        free = [uid for uid in self._by_key.get(key) if uid not in self._name_of]
        # Two newcomers that fit the same weak key are not told apart by it.
        if len(free) != 1 or (key != keys[0] and sum(key in other for other in among) > 1):
            return False
        self._take(name, keys, free[0])
        identity = self._by_uid[free[0]]
        if identity.keys != keys:  # found at another place: from now on it is found there too
            self._remember(Identity(identity.uid, keys), save=True)
        return True

    def _create(self, name: str, keys: tuple[str, ...]) -> None:
        uid = make_uid(keys[0])
        # The same place and product again beside a known one that is here elsewhere: a new device.
        while uid in self._by_uid:
            uid = make_uid(f"{uid}+")
        self._remember(Identity(uid, keys), save=True)
        self._take(name, keys, uid)

    def _take(self, name: str, keys: tuple[str, ...], uid: str) -> None:
        self._uid_of[name] = uid
        self._name_of[uid] = name
        self._keys_of[name] = keys

    def _remember(self, identity: Identity, *, save: bool = False) -> None:
        before = self._by_uid.get(identity.uid)
        for key in before.keys if before else ():
            self._by_key.discard(key, identity.uid)
        self._by_uid[identity.uid] = identity
        # The serial alone ever changes here, so this needs no taking back.
        left_out = _serial_left_out(identity.keys[0])
        if left_out is not None:
            self._by_serial_left_out.add(left_out, identity.uid)
        for key in identity.keys:
            self._by_key.add(key, identity.uid)
        if save:
            self.unsaved.append(identity)
