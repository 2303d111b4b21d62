"""The graph's ordered indexes stay what a graph built anew would have, whatever comes, goes or changes."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from hostdevd.core.graph import DeviceGraph
from hostdevd.core.model import NodeDevice

_NAMES = st.sampled_from([f"d{number}" for number in range(6)])
_STEPS = st.lists(st.tuples(st.sampled_from("prn"), _NAMES, _NAMES, st.sampled_from(("pci", "net"))), max_size=40)


@given(_STEPS)
def test_children_and_types_are_those_of_a_graph_built_anew(steps: list[tuple[str, str, str, str]]) -> None:
    graph = DeviceGraph()
    for what, name, parent, kind in steps:
        known = graph.get(name)
        if what == "r":
            graph.remove(name)
        elif what == "n" and known is not None:
            graph.put(replace(known, description=known.description + "."))
        else:
            graph.put(NodeDevice(name=name, type=kind, parent=parent if parent != name else None))
        anew = DeviceGraph(graph.nodes.values())
        names = [f"d{number}" for number in range(6)]
        assert [graph.children(one) for one in names] == [anew.children(one) for one in names]
        assert [graph.of_type(one) for one in ("pci", "net")] == [anew.of_type(one) for one in ("pci", "net")]


def test_a_path_that_two_names_share_stays_with_the_one_that_stays() -> None:
    """libvirt names a disk anew when udev knows its serial, and the old name may be read last."""
    named = NodeDevice("block_sda_SERIAL", "storage", "computer", "/sys/devices/virtual/sda")
    nameless = replace(named, name="block_sda")
    graph = DeviceGraph([named, nameless])
    graph.remove(nameless.name)
    assert graph.by_path("/sys/devices/virtual/sda/sda1") == named.name
    graph.put(nameless)
    graph.remove(named.name)
    assert graph.by_path("/sys/devices/virtual/sda") == nameless.name
    graph.remove(nameless.name)
    assert graph.by_path("/sys/devices/virtual/sda") is None
