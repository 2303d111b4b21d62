"""What virsh does behind hostdevd's back, action by action: each is seen as the change that it is.

One stream of holders and one of devices stay open. Some actions change nothing of who holds what, and nothing may be
told then. The table of all, with delays, is $LAB_OUTPUT/virsh-actions.txt; how long each took depends on the machine,
so it is told and not judged.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from api import Api, eventually
from hosts import LabHost, virsh
from libvirtd import kill_libvirtd, restart_libvirtd, start_libvirtd

from hostdev.v1 import holder_pb2, service_pb2
from lab.applied import Applied, Change
from lab.bench import NAMES, Facts, domain, files

UPSERT, REMOVE = service_pb2.CHANGE_KIND_UPSERT, service_pb2.CHANGE_KIND_REMOVE
RUNNING, PAUSED, OFF = "RUNNING", "PAUSED", "SHUT_OFF"
LIVE, CONFIG, BOTH, GONE = "live", "config", "live+config", "gone"
MAC = "52:54:00:1a:bf:77"
LIMIT_S = 120.0
"""Bounds the test, nothing else: what is seen within ten seconds on a real host takes its time in an emulated one."""

NIC, CARD, AUDIO, STICK = "nic_single", "switch_0", "usb_unique", "stick1"
PAIR = ("dual_0", "dual_1")
LUN, DISK, SAVED = "scsi_debug_2", "scsi_debug_1", "scsi_debug_3"
ALL = (NIC, AUDIO, LUN, DISK, *PAIR)


@dataclass(frozen=True)
class Want:
    """The change that an action must be seen as. `where`: in which definitions the VM has the device then."""

    role: str
    where: str
    vm: str = "bench"
    state: str = OFF
    via: str = "HOSTDEV"

    def is_seen_as(self, device: str) -> Callable[[Change], bool]:
        """Whether a change is this one."""

        def wanted(change: Change) -> bool:
            holder = change.item
            if (holder.device, holder.vm.name, via_of(holder)) != (device, self.vm, self.via):
                return False
            if self.where == GONE:
                return change.kind == REMOVE
            return (change.kind, where_of(holder), state_of(holder)) == (UPSERT, self.where, self.state)

        return wanted


def where_of(holder: holder_pb2.Holder) -> str:
    return {(True, True): BOTH, (True, False): LIVE, (False, True): CONFIG}[holder.live, holder.config]


def state_of(holder: holder_pb2.Holder) -> str:
    return holder_pb2.VmState.Name(holder.vm.state).removeprefix("VM_STATE_")


def via_of(holder: holder_pb2.Holder) -> str:
    return holder_pb2.HolderVia.Name(holder.via).removeprefix("HOLDER_VIA_")


def each(roles: tuple[str, ...], where: str, state: str = OFF, vm: str = "bench") -> tuple[Want, ...]:
    """The same of several devices."""
    return tuple(Want(role, where, vm, state, "DISK" if role in {DISK, SAVED} else "HOSTDEV") for role in roles)


@dataclass
class Script:
    """Does actions, waits for what must be seen of each, and writes the table."""

    api: Api
    roles: dict[str, str]
    holders: Applied
    devices: Applied
    file: Path
    lines: list[str] = field(default_factory=list)
    whole: bool = False

    def virsh(self, command: str, *wants: Want, paths: dict[str, str] | None = None) -> None:
        """One virsh command. `{name}` in it is a file's path."""
        self.act(f"virsh {command}", lambda: _run(command, paths or {}), *wants)

    def act(self, title: str, action: Callable[[], object], *wants: Want) -> None:
        """One action of any kind. It must be seen as exactly these changes."""
        since = len(self.holders.changes)
        action()
        done = time.monotonic()
        seen = [(want, self.holders.first(since, want.is_seen_as(self.roles[want.role]), LIMIT_S)) for want in wants]
        expected = {(self.roles[want.role], want.vm) for want in wants}
        others = [
            (change.item.device, change.item.vm.name)
            for change in self.holders.changes[since:]
            if (change.item.device, change.item.vm.name) not in expected
        ]
        assert others == [], (title, others)
        for number, (want, change) in enumerate(seen):
            state = "" if want.where == GONE else want.state
            self._line("" if number else title, f"{want.vm}: {want.role} {want.where} {state}", change, done)
        self.write()

    def driver(self, command: str, role: str, driver: str) -> None:
        """A virsh command that shows in the devices only: another driver is bound."""
        since, name = len(self.devices.changes), self.roles[role]
        _run(command, {})
        done = time.monotonic()
        change = self.devices.first(
            since, lambda one: (one.kind, one.item.name, one.item.driver) == (UPSERT, name, driver), LIMIT_S
        )
        self._line(f"virsh {command}", f"{role}: {driver}", change, done)
        self.write()

    def quiet(self, *actions: str | tuple[str, Callable[[], object]]) -> None:
        """Actions that change nothing of who holds what: when all has been read again, nothing was told."""
        since = len(self.holders.changes)
        for action in actions:
            if isinstance(action, str):
                _run(action, {})
                title = f"virsh {action}"
            else:
                title, does = action
                does()
            self.lines.append(f"{title:64} {'nothing, as it should be':48}       -")
        self.read_again()
        told = [(change.kind, change.source, str(change.item)) for change in self.holders.changes[since:]]
        assert told == [], (actions, told)

    def read_again(self) -> None:
        """Wait until a reconcile that began after this call has ended."""
        for _ in range(2):  # the first to end may have begun before
            last = self._synced()
            eventually(self._synced, lambda now: now > last)  # noqa: B023  waited for here

    def _synced(self) -> int:
        host = self.api.stub.GetHost(service_pb2.GetHostRequest(), timeout=LIMIT_S).host
        return host.synced_time.ToNanoseconds()

    def _line(self, title: str, seen: str, change: Change, done: float) -> None:
        # What was told before virsh itself had returned took no time for whoever looks.
        self.lines.append(f"{title:64} {seen:48} {max(0.0, change.at - done):7.2f} {change.source}")

    def write(self) -> None:
        """The table so far: what was seen before a failure helps to find it."""
        actions = sum(not line.startswith(" ") for line in self.lines)
        end = "" if self.whole else "\n(it ended here)"
        head = f"{'action':64} {'seen as':48} {'after s':>7} source"
        self.file.write_text("\n".join((f"{actions} actions", head, *self.lines)) + end + "\n")


def _run(command: str, paths: dict[str, str]) -> None:
    virsh(*command.format(**paths).split())


def kill_qemu(vm: str) -> None:
    """The VM's process dies, as in a crash."""
    subprocess.run(["pkill", "-9", "-f", f"guest={vm},"], check=True)


@pytest.fixture
def script(lab: LabHost) -> Iterator[Script]:
    stub = lab.api.stub
    holders = Applied(stub.WatchHolders(service_pb2.WatchHoldersRequest()), "holder")
    devices = Applied(stub.WatchDevices(service_pb2.WatchDevicesRequest()), "device")
    made = Script(lab.api, lab.roles, holders, devices, Path(os.environ["LAB_OUTPUT"]) / "virsh-actions.txt")
    try:
        holders.until_bookmark()
        devices.until_bookmark()
        yield made
    finally:
        holders.end()
        devices.end()
        for name in NAMES:
            for undo in (["destroy", name], ["undefine", name, "--managed-save"]):
                subprocess.run(["virsh", *undo], check=False, capture_output=True)


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.full)], ids=["some", "every"])
def test_every_virsh_action_is_seen_as_what_it_is(lab: LabHost, script: Script, tmp_path: Path, *, whole: bool) -> None:
    facts = Facts.read()
    paths = files(
        tmp_path,
        {
            "with_nic": domain("bench", facts.pci(NIC)),
            "with_card": domain("bench", facts.pci(CARD)),
            "with_none": domain("bench"),
            "with_disk": domain("bench", facts.disk(SAVED, "sdq")),
            "passing": domain("passing", facts.pci(CARD)),
            "nic": facts.pci(NIC),
            "nic_unmanaged": facts.pci(NIC, managed="no"),
            "function_0": facts.pci(PAIR[0]),
            "function_1": facts.pci(PAIR[1]),
            "audio": facts.usb_by_product(AUDIO),
            "stick": facts.usb_by_address(STICK),
            "lun": facts.lun(LUN),
            "disk": facts.disk(DISK, "sdq"),
        },
    )
    _definition_of_a_vm_that_is_off(script, facts, paths)
    _life_of_a_vm(script)
    if whole:
        _elements_of_a_running_vm(script, paths)
    _a_running_vm_and_its_definition(script, paths, had=(NIC, *PAIR) if whole else ALL)
    if whole:
        _transient_vms(script, paths)
    _a_real_guest(script, paths)
    if whole:
        _a_saved_vm(script, paths)
    _libvirtd_is_away(script, paths)

    _ends_equal(lab.api, script)
    script.whole = True
    script.write()


def _definition_of_a_vm_that_is_off(script: Script, facts: Facts, paths: dict[str, str]) -> None:
    def config(role: str, via: str = "HOSTDEV") -> Want:
        return Want(role, CONFIG, via=via)

    script.virsh("define {with_nic}", config(NIC), paths=paths)
    script.virsh("detach-device bench {nic} --config", Want(NIC, GONE), paths=paths)
    script.virsh("attach-device bench {nic} --config", config(NIC), paths=paths)
    script.virsh("attach-device bench {function_0} --config", config(PAIR[0]), paths=paths)
    script.virsh("attach-device bench {function_1} --config", config(PAIR[1]), paths=paths)
    script.virsh("attach-device bench {audio} --config", config(AUDIO), paths=paths)
    script.virsh("attach-device bench {lun} --config", config(LUN), paths=paths)
    script.virsh("attach-device bench {disk} --config", config(DISK, "DISK"), paths=paths)
    interface = f"attach-interface bench hostdev {facts.address(CARD)} --managed --mac {MAC} --config"
    script.virsh(interface, config(CARD, "INTERFACE"))
    undo = f"detach-interface bench hostdev --mac {MAC} --config"
    script.virsh(undo, Want(CARD, GONE, via="INTERFACE"))


def _life_of_a_vm(script: Script) -> None:
    script.virsh("start bench --paused", *each(ALL, BOTH, PAUSED))
    script.virsh("resume bench", *each(ALL, BOTH, RUNNING))
    script.virsh("suspend bench", *each(ALL, BOTH, PAUSED))
    script.virsh("resume bench", *each(ALL, BOTH, RUNNING))
    script.quiet(
        "reset bench",
        "autostart bench",
        "autostart bench --disable",
        "setmem bench 65536 --config",
        "desc bench --title titled --config",
        "metadata bench --uri urn:hostdevd:test --key t --set <a/> --live --config",
        "nodedev-list",
    )
    script.act("(its qemu is killed)", lambda: kill_qemu("bench"), *each(ALL, CONFIG))
    script.virsh("domrename bench renamed", *each(ALL, CONFIG, vm="renamed"))
    script.virsh("domrename renamed bench", *each(ALL, CONFIG))
    script.virsh("start bench", *each(ALL, BOTH, RUNNING))
    script.virsh("destroy bench", *each(ALL, CONFIG))


def _elements_of_a_running_vm(script: Script, paths: dict[str, str]) -> None:
    script.virsh("start bench", *each(ALL, BOTH, RUNNING))
    # What is unplugged without a guest's help; a PCI function needs one that answers.
    for role, file in ((AUDIO, "audio"), (LUN, "lun"), (DISK, "disk")):
        both, config, live = (each((role,), where, RUNNING) for where in (BOTH, CONFIG, LIVE))
        script.virsh(f"detach-device bench {{{file}}} --live", *config, paths=paths)
        script.virsh(f"attach-device bench {{{file}}} --live", *both, paths=paths)
        script.virsh(f"detach-device bench {{{file}}} --config", *live, paths=paths)
        script.virsh(f"detach-device bench {{{file}}} --live", *each((role,), GONE), paths=paths)
    script.virsh("detach-device bench {nic} --config", Want(NIC, LIVE, state=RUNNING), paths=paths)
    script.virsh("attach-device bench {nic} --config", Want(NIC, BOTH, state=RUNNING), paths=paths)
    script.virsh("destroy bench", *each((NIC, *PAIR), CONFIG))


def _a_running_vm_and_its_definition(script: Script, paths: dict[str, str], had: tuple[str, ...]) -> None:
    now = Want(CARD, CONFIG)
    script.virsh("define {with_card}", *each(had, GONE), now, paths=paths)
    script.virsh("start bench", Want(CARD, BOTH, state=RUNNING))
    script.virsh("define {with_none}", Want(CARD, LIVE, state=RUNNING), paths=paths)
    script.virsh("define {with_card}", Want(CARD, BOTH, state=RUNNING), paths=paths)
    script.virsh("undefine bench", Want(CARD, LIVE, state=RUNNING))
    script.virsh("define {with_card}", Want(CARD, BOTH, state=RUNNING), paths=paths)
    script.virsh("undefine bench", Want(CARD, LIVE, state=RUNNING))
    script.virsh("destroy bench", Want(CARD, GONE))
    script.virsh("define {with_card}", now, paths=paths)
    script.virsh("undefine bench", Want(CARD, GONE))


def _transient_vms(script: Script, paths: dict[str, str]) -> None:
    card, stick = ("passing", RUNNING), Want(STICK, LIVE, "passing", RUNNING)
    script.virsh("create {passing} --paused", Want(CARD, LIVE, "passing", PAUSED), paths=paths)
    script.virsh("resume passing", Want(CARD, LIVE, *card))
    script.virsh("attach-device passing {stick} --live", stick, paths=paths)
    script.virsh("destroy passing", Want(CARD, GONE, "passing"), Want(STICK, GONE, "passing"))
    script.virsh("create {passing}", Want(CARD, LIVE, *card), paths=paths)
    script.act("(its qemu is killed)", lambda: kill_qemu("passing"), Want(CARD, GONE, "passing"))


def _a_real_guest(script: Script, paths: dict[str, str]) -> None:
    """What a guest must answer for: a function that leaves while it runs."""
    live, gone = Want(NIC, LIVE, "alpha", RUNNING), Want(NIC, GONE, "alpha")
    both, config = (Want(NIC, where, "alpha", RUNNING) for where in (BOTH, CONFIG))
    driver = script.api.driver(script.roles[NIC])
    nic = script.roles[NIC]
    script.driver(f"nodedev-detach {nic}", NIC, "vfio-pci")
    script.virsh("attach-device alpha {nic_unmanaged} --live", live, paths=paths)
    script.virsh("detach-device alpha {nic_unmanaged} --live", gone, paths=paths)
    script.driver(f"nodedev-reattach {nic}", NIC, driver)
    script.virsh("attach-device alpha {nic} --live --config", both, paths=paths)
    script.virsh("detach-device alpha {nic} --live", config, paths=paths)
    script.virsh("detach-device alpha {nic} --config", gone, paths=paths)
    script.virsh("attach-device alpha {stick} --live", Want(STICK, LIVE, "alpha", RUNNING), paths=paths)
    script.virsh("detach-device alpha {stick} --live", Want(STICK, GONE, "alpha"), paths=paths)


def _a_saved_vm(script: Script, paths: dict[str, str]) -> None:
    """libvirt saves no VM with host devices; one with a LUN as its disk it does."""

    def disk(where: str, state: str = OFF) -> Want:
        return Want(SAVED, where, state=state, via="DISK")

    script.virsh("define {with_disk}", disk(CONFIG), paths=paths)
    script.virsh("start bench", disk(BOTH, RUNNING))
    script.virsh("managedsave bench", disk(CONFIG))
    script.virsh("start bench", disk(BOTH, RUNNING))
    script.virsh("managedsave bench", disk(CONFIG))
    script.quiet("managedsave-remove bench")
    script.virsh("undefine bench", disk(GONE))


def _libvirtd_is_away(script: Script, paths: dict[str, str]) -> None:
    """What happens meanwhile, or before hostdevd is back, is seen when it is."""
    api = script.api
    script.virsh("define {with_card}", Want(CARD, CONFIG), paths=paths)
    script.virsh("start bench", Want(CARD, BOTH, state=RUNNING))
    script.quiet(("(libvirtd is killed and started)", lambda: restart_libvirtd(api)))

    def die_together() -> None:
        kill_libvirtd(api)
        kill_qemu("bench")
        start_libvirtd()

    def meanwhile() -> None:
        kill_libvirtd(api)
        start_libvirtd()
        _run("attach-device bench {stick} --config", paths)

    script.act("(libvirtd and its qemu are killed, libvirtd is started)", die_together, Want(CARD, CONFIG))
    title = "(libvirtd is killed and started) virsh attach-device --config"
    script.act(title, meanwhile, Want(STICK, CONFIG))
    script.virsh("undefine bench", Want(CARD, GONE), Want(STICK, GONE))


def _ends_equal(api: Api, script: Script) -> None:
    """What the streams add up to is what the lists say."""
    script.read_again()
    eventually(lambda: _differ(script.holders.items, {one.name: one for one in api.holders()}), lambda them: not them)
    eventually(lambda: _differ(script.devices.items, {one.name: one for one in api.devices()}), lambda them: not them)


def _differ(applied: dict[str, Any], listed: dict[str, Any]) -> list[str]:
    return [name for name in applied.keys() | listed.keys() if applied.get(name) != listed.get(name)]
