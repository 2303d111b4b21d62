"""tree: the host's devices as they hang together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import typer
from rich.console import Group as Stack
from rich.text import Text
from rich.tree import Tree

from hostdev.cli.marks import never_assignable, verdict
from hostdev.cli.output import cell
from hostdev.cli.session import session_of
from hostdev.cli.words import scopes, uses
from hostdev.v1 import device_pb2

Below = Mapping[str, list[device_pb2.Device]]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("tree")(tree)


def tree(context: typer.Context) -> None:
    """Draw the device tree. Shows groups, drivers, holders, what the host uses and what can be assigned."""
    session = session_of(context)
    found = list(session.client.list_devices())
    session.printer.resources(found, (one.name for one in found), Stack(*_draw(found)), "no devices")


def _draw(found: Iterable[device_pb2.Device]) -> list[Tree]:
    """One tree for each device whose parent is not listed: libvirt may tell a parent that it does not list."""
    by_name = {one.name: one for one in found}
    below: Below = defaultdict(list)
    tops = []
    for one in by_name.values():
        if one.parent in by_name and one.parent != one.name:
            below[one.parent].append(one)
        else:
            tops.append(one)
    return [_branch(top, below) for top in tops]


def _branch(top: device_pb2.Device, below: Below) -> Tree:
    root = Tree(_label(top), guide_style="dim")
    # Without recursion: hubs behind hubs may be deep.
    waiting = [(top, root)]
    while waiting:
        parent, branch = waiting.pop()
        waiting += [(child, branch.add(_label(child))) for child in below.get(parent.name, ())]
    return root


def _label(device: device_pb2.Device) -> Text:
    label = Text.assemble((device.name, "bold"))
    if device.description:
        label.append(f"  {device.description}")
    if device.driver:
        label.append(f"  [{device.driver}]", style="cyan")
    if device.HasField("iommu_group"):
        label.append(f"  IOMMU group {device.iommu_group}", style="blue")
    if device.host_uses:
        label.append(f"  host: {uses(device)}", style="magenta")
    if device.holders or not never_assignable(device.eligibility):
        judged = verdict(device)
        if device.holders:
            judged.append(f" ({', '.join(scopes(held) for held in device.holders)})")
        mark = "●" if device.holders else "✓" if device.eligibility.available else "✗"
        label.append("  ").append(f"{mark} ", style=judged.style).append_text(judged)
    return cell(label)
