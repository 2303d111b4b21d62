"""`DeviceFilter`: values of one field are ORed, fields ANDed (api.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from hostdev.v1 import device_pb2
from hostdevd.api.requests import text, texts
from hostdevd.core.errors import invalid_field
from hostdevd.core.graph import iommu_group_of
from hostdevd.core.groups import affected
from hostdevd.core.matching import Values, class_of, id_of, read_class, read_id
from hostdevd.core.planner import find_device
from hostdevd.core.store import Store
from hostdevd.core.views import DeviceView

Matches = Callable[[DeviceView], bool]

TYPES = frozenset(field.name for field in device_pb2.Device.DESCRIPTOR.oneofs_by_name["detail"].fields)


class Filter:
    """A `DeviceFilter` as a predicate, and the devices of now that it picks, by name."""

    def __init__(self, store: Store, tests: tuple[Matches, ...], narrowing: Callable[[], Iterable[str]] | None) -> None:
        self._store = store
        self._tests = tests
        self._narrowing = narrowing

    def __call__(self, view: DeviceView) -> bool:
        """Whether the device matches."""
        return all(test(view) for test in self._tests)

    def views(self) -> Iterator[DeviceView]:
        """The devices that match, by name: found by an index where one field of the filter has one."""
        devices = self._store.devices
        names = self._store.device_names if self._narrowing is None else sorted(self._narrowing())
        views = (devices[name] for name in names if name in devices)
        return filter(self, views) if self._tests else views


def device_filter(store: Store, given: device_pb2.DeviceFilter, *, strict: bool = True) -> Filter:
    """The filter of a request. `strict`: unknown devices in it are an error; else they match nothing yet."""
    relations = tuple(_relations(store, given, strict=strict))
    tests = (*_value_tests(given), *(relation.matches for relation in relations))
    narrowing = relations[0].names if relations else _index(store, given)
    return Filter(store, tests, narrowing)


def _index(store: Store, given: device_pb2.DeviceFilter) -> Callable[[], Iterable[str]] | None:
    """The index that gives the fewest devices, None where only a look at all of them tells."""
    if given.iommu_groups:
        numbers = frozenset(given.iommu_groups)
        return lambda: {member.name for number in numbers for member in store.graph.iommu_members(number)}
    if given.types:
        types = frozenset(given.types)
        return lambda: {name for kind in types for name in store.graph.of_type(kind)}
    return None


def _value_tests(given: device_pb2.DeviceFilter) -> Iterator[Matches]:
    if given.types:
        types = frozenset(texts("filter.types", given.types))
        for index, kind in enumerate(given.types):
            if kind not in TYPES:
                raise invalid_field(f"filter.types[{index}]", f"must be one of {', '.join(sorted(TYPES))}")
        yield lambda view: view.node.type in types
    if given.ids:
        ids = Values.of(_read("filter.ids", given.ids, read_id))
        yield lambda view: ids.fit(id_of(view.node))
    if given.pci_classes:
        classes = Values.of(_read("filter.pci_classes", given.pci_classes, read_class))
        yield lambda view: classes.fit(class_of(view.node))
    if given.drivers:
        drivers = frozenset(texts("filter.drivers", given.drivers))
        yield lambda view: view.driver in drivers
    if given.iommu_groups:
        groups = frozenset(given.iommu_groups)
        yield lambda view: iommu_group_of(view.node) in groups
    if given.numa_nodes:
        nodes = frozenset(given.numa_nodes)
        yield lambda view: view.node.numa_node in nodes


def _read(field: str, values: object, read: Callable[[str], str]) -> Iterator[str]:
    for index, value in enumerate(texts(field, values)):
        try:
            yield read(value)
        except ValueError as error:
            raise invalid_field(f"{field}[{index}]", str(error)) from None


class _Relation:
    """The devices that stand in a relation to one, found once per revision."""

    def __init__(self, store: Store, device: str, find: Callable[[Store, DeviceView], Iterable[str]]) -> None:
        self._store = store
        self._device = device
        self._find = find
        self._found: tuple[int, frozenset[str]] = (-1, frozenset())

    def names(self) -> frozenset[str]:
        """Who they are now."""
        if self._found[0] != self._store.revision:
            view = self._store.device(self._device)
            names = frozenset(self._find(self._store, view)) if view is not None else frozenset[str]()
            self._found = (self._store.revision, names)
        return self._found[1]

    def matches(self, view: DeviceView) -> bool:
        """Whether a device is one of them."""
        return view.name in self.names()


def _relations(store: Store, given: device_pb2.DeviceFilter, *, strict: bool) -> Iterator[_Relation]:
    for name, value, find in (("parent", given.parent, _below), ("affected_by", given.affected_by, _affected)):
        if value:
            device = text(f"filter.{name}", value)
            if strict:
                find_device(store, device)
            yield _Relation(store, device, find)


def _below(store: Store, view: DeviceView) -> Iterable[str]:
    return store.graph.children(view.name)


def _affected(store: Store, view: DeviceView) -> Iterable[str]:
    return (item.name for item in affected(store.graph, view.node))
