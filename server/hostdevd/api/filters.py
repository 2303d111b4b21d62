"""`DeviceFilter`: values of one field are ORed, fields ANDed (api.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from hostdev.v1 import device_pb2
from hostdevd.api.requests import text, texts
from hostdevd.core.errors import invalid_field
from hostdevd.core.graph import iommu_group_of
from hostdevd.core.groups import affected
from hostdevd.core.matching import Values, class_of, id_of, read_class, read_id
from hostdevd.core.sight import Sight
from hostdevd.core.store import Store
from hostdevd.core.views import DeviceView

Matches = Callable[[DeviceView], bool]

TYPES = frozenset(field.name for field in device_pb2.Device.DESCRIPTOR.oneofs_by_name["detail"].fields)


Names = Callable[[], Iterable[str]]
"""Names of the devices of now that are something."""


class Filter:
    """A `DeviceFilter` as a predicate, and the devices of now that it picks, by name."""

    def __init__(
        self, store: Store, matches: Matches, related: Names | None, index: Names | None, sight: Sight
    ) -> None:
        self._store = store
        self._sight = sight
        self._matches = matches
        self._related = related
        self._index = related or index
        self._found: tuple[int, frozenset[str]] = (-1, frozenset())

    def __call__(self, view: DeviceView) -> bool:
        """Whether the device matches now, and may be seen."""
        if not self._sight.device(view):
            return False
        if self._related is not None:
            if self._found[0] != self._store.revision:
                self._found = (self._store.revision, frozenset(self._related()))
            if view.name not in self._found[1]:
                return False
        return self._matches(view)

    def views(self) -> Iterator[DeviceView | None]:
        """The devices that match and may be seen, by name, and a None for each that is looked at for nothing.

        They are found by an index where one field of the filter has one.
        """
        devices, matches = self._store.devices, self._matches
        sees = None if self._sight.is_whole else self._sight.device
        for name in self._store.device_names if self._index is None else sorted(self._index()):
            view = devices.get(name)
            yield view if view is not None and matches(view) and (sees is None or sees(view)) else None


def device_filter(store: Store, given: device_pb2.DeviceFilter, sight: Sight, *, strict: bool = True) -> Filter:
    """The filter of a list. `strict`: unknown devices in it are an error; else they match nothing."""
    related = related_names(store, given, sight)
    if strict:
        for device in filter(None, (given.parent, given.affected_by)):
            sight.find_device(device)
    return Filter(store, value_filter(given), related, _index(store, given), sight)


def _index(store: Store, given: device_pb2.DeviceFilter) -> Names | None:
    """The index that gives the fewest devices, None where only a look at all of them tells."""
    if given.iommu_groups:
        numbers = frozenset(given.iommu_groups)
        return lambda: {member.name for number in numbers for member in store.graph.iommu_members(number)}
    if given.types:
        types = frozenset(given.types)
        return lambda: {name for kind in types for name in store.graph.of_type(kind)}
    return None


def value_filter(given: device_pb2.DeviceFilter) -> Matches:
    """What of the filter looks at nothing but the device itself."""
    tests = tuple(_value_tests(given))
    return lambda view: all(test(view) for test in tests)


def related_names(store: Store, given: device_pb2.DeviceFilter, sight: Sight) -> Callable[[], frozenset[str]] | None:
    """The rest of it: names of the devices that are now what it asks for to others; None when it asks for nothing.

    What may not be seen has nothing to do with anything.
    """
    relations: list[Names] = []
    if given.parent:
        parent = text("filter.parent", given.parent)
        relations.append(lambda: _children(store, sight.visible(parent)))
    if given.affected_by:
        device = text("filter.affected_by", given.affected_by)
        relations.append(lambda: _affected(store, sight.visible(device)))
    return (lambda: frozenset.intersection(*(frozenset(names()) for names in relations))) if relations else None


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


def _children(store: Store, found: DeviceView | None) -> Iterable[str]:
    return store.graph.children(found.name) if found is not None else ()


def _affected(store: Store, found: DeviceView | None) -> Iterable[str]:
    return (item.name for item in affected(store.graph, found.node)) if found is not None else ()
