"""Whatever callers, other tools, guests, libvirt and the host do, in whatever order: no device is ever lost."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from hostdevd.core.addresses import PciAddress, ScsiAddress, UsbAddress
from hostdevd.core.assignments import Assignment, GroupPolicy, Scope
from hostdevd.core.errors import HostdevError
from hostdevd.core.model import HostUseKind, NodeDevice, PciFacts, VmState
from hostdevd.core.plan import AttachRequest
from hostdevd.core.ports import HostdevSpec, Target
from hostdevd.core.release import DetachRequest
from hostdevd.sim.extras import Unplug
from hostdevd.sim.kernel import VFIO
from hostdevd.virt.xml.hostdev import build_hostdev
from property.conftest import PROFILE
from property.scene import Scene

# By what it is to the rules: alone, groups of two and three, pre-bound, in use, USB, twins, LUNs, a PF.
PCI = (
    "pci_0000_01_00_0",
    "pci_0000_04_00_0",
    "pci_0000_04_00_1",
    "pci_0000_05_00_0",
    "pci_0000_06_00_0",
    "pci_0000_03_01_0",
    "pci_0000_03_02_0",
    "pci_0000_15_00_0",
)
USED = ("pci_0000_0c_00_0", "pci_0000_13_00_0", "scsi_3_0_0_3")
USB = ("usb_2_2", "usb_2_3", "usb_2_4")
LUNS = ("scsi_3_0_0_0", "scsi_3_0_0_1")
CALLS = ("attach", "detach", "nodedev_detach", "nodedev_reattach", "domain", "domains", "node_device", "node_devices")

devices = st.sampled_from(PCI + USB + LUNS)
functions = st.sampled_from(PCI)
vms = st.sampled_from(("alpha", "alpha", "spare", "spare", "deaf", "stubborn", "legacy", "brief"))
scopes = st.sampled_from((Scope.AUTO, Scope.AUTO, Scope.LIVE, Scope.CONFIG, Scope.LIVE_AND_CONFIG))
policies = st.sampled_from((GroupPolicy.WHOLE_GROUP, GroupPolicy.WHOLE_GROUP, *GroupPolicy))
waits = st.sampled_from((0.0, 0.0, 0.3, 30.0))
definitions = st.sampled_from(Target)
turns = st.integers(0, 60)


class HostMachine(RuleBasedStateMachine):
    """One host's life."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="hostdevd-property-"))
        self.scene = Scene(self.directory)
        self.aliases = 0

    def teardown(self) -> None:
        try:
            self.scene.everything_back()
        finally:
            self.scene.end()
            shutil.rmtree(self.directory)

    # --- callers of hostdevd ---------------------------------------------------------------------------

    @rule(vm=vms, device=devices, policy=policies, scope=scopes, wait_s=waits)
    def attach(self, vm: str, device: str, policy: GroupPolicy, scope: Scope, wait_s: float) -> None:
        self.scene.attach(AttachRequest(vm, device, policy, scope), wait_s)

    @rule(vm=st.sampled_from(("alpha", "spare")), device=st.sampled_from((*PCI[:3], *USB)))
    def attach_what_fits(self, vm: str, device: str) -> None:
        self.scene.attach(AttachRequest(vm, device), 30.0)

    @rule(vm=vms, device=st.sampled_from(USED))
    def attach_what_the_host_uses(self, vm: str, device: str) -> None:
        assert isinstance(self.scene.attach(AttachRequest(vm, device), 30.0), HostdevError)

    @precondition(lambda self: self.scene.core.store.assignments)
    @rule(data=st.data(), wait_s=waits)
    def attach_to_the_other_definition(self, data: st.DataObject, wait_s: float) -> None:
        one = self._some_assignment(data)
        scope = Scope.CONFIG if one.live else Scope.LIVE
        self.scene.attach(AttachRequest(one.vm.uuid, one.devices[0].uid, one.group_policy, scope), wait_s)

    @rule(vm=vms, device=devices, scope=scopes, wait_s=waits)
    def detach_by_device(self, vm: str, device: str, scope: Scope, wait_s: float) -> None:
        self.scene.detach(DetachRequest("", vm, device, scope), wait_s)

    @precondition(lambda self: self.scene.core.store.assignments)
    @rule(data=st.data(), scope=scopes, wait_s=waits)
    def detach_by_name(self, data: st.DataObject, scope: Scope, wait_s: float) -> None:
        self.scene.detach(DetachRequest(self._some_assignment(data).name, scope=scope), wait_s)

    @rule(number=turns)
    def a_few_turns_pass(self, number: int) -> None:
        """What follows happens in the middle of what runs."""
        self.scene.turns(number)

    @rule(vm=vms, device=devices, scope=scopes, policy=policies, number=turns)
    def crash_in_an_attach(self, vm: str, device: str, scope: Scope, policy: GroupPolicy, number: int) -> None:
        self.scene.attach(AttachRequest(vm, device, policy, scope), 0.0)
        self.scene.turns(number)
        self.scene.crash()

    @precondition(lambda self: self.scene.core.store.assignments)
    @rule(data=st.data(), scope=scopes, number=turns)
    def crash_in_a_detach(self, data: st.DataObject, scope: Scope, number: int) -> None:
        self.scene.detach(DetachRequest(self._some_assignment(data).name, scope=scope), 0.0)
        self.scene.turns(number)
        self.scene.crash()

    # --- hands at the plugs ----------------------------------------------------------------------------

    @rule(device=st.sampled_from((*PCI[:4], *USB, *LUNS)))
    def unplug(self, device: str) -> None:
        if self.scene.sim.world.kernel.visible(device):
            self._others_touch(device)
            # When it comes again it has the driver of a boot.
            self.scene.forget_operator(device)
            self.scene.act(lambda: self.scene.sim.controls.unplug_device(device))

    @rule(device=st.sampled_from((*PCI[:4], *USB, *LUNS)))
    def plug_again(self, device: str) -> None:
        known = self.scene.sim.world.kernel.devices[device]
        if not known.plugged:
            # It comes with its own driver, whatever its group mates are doing.
            self._others_touch(device)
            self.scene.act(lambda: self.scene.sim.controls.replug(device))

    # --- other tools at libvirt --------------------------------------------------------------------------

    @rule(vm=vms, device=devices, definition=definitions, managed=st.booleans())
    def virsh_attach(self, vm: str, device: str, definition: Target, managed: bool) -> None:  # noqa: FBT001
        scene, kernel = self.scene, self.scene.sim.world.kernel
        if not kernel.visible(device):
            return
        source = getattr(kernel.devices[device].node.facts, "address", None)
        assert isinstance(source, PciAddress | UsbAddress | ScsiAddress)
        self.aliases += 1
        drive = (0, 0, 0, 200 + self.aliases % 50) if isinstance(source, ScsiAddress) else None
        spec = HostdevSpec(
            f"ua-by-hand-{self.aliases}", source, managed=managed and isinstance(source, PciAddress), drive=drive
        )
        self._others_touch(device)
        scene.act(lambda: scene.sim.controls.virsh_attach(vm, build_hostdev(spec), definition))

    @rule(vm=vms, definition=definitions, data=st.data())
    def virsh_detach(self, vm: str, definition: Target, data: st.DataObject) -> None:
        scene = self.scene
        domain = next((one for one in scene.sim.world.domains.values() if one.name == vm), None)
        read = None if domain is None else domain.domain()
        found_in = (read.live if definition is Target.LIVE else read.config) if read is not None else None
        entries = [entry for entry in found_in.entries if entry.alias] if found_in is not None else []
        if not entries:
            return
        entry = entries[data.draw(st.integers(0, min(len(entries), 4) - 1))]
        for found in scene.sim.world.kernel.at(entry.source):
            self._others_touch(found.node.name)
        scene.act(lambda: scene.sim.controls.virsh_detach(vm, entry.alias or "", definition))

    @rule(vm=vms)
    def start_or_stop(self, vm: str) -> None:
        controls = self.scene.sim.controls
        if not self.scene.act(lambda: controls.start_domain(vm)):
            self.scene.act(lambda: controls.destroy_domain(vm))

    @rule(vm=vms, what=st.sampled_from(("reboot", "pause", "resume", "undefine", "define", "save")))
    def something_happens_to_a_vm(self, vm: str, what: str) -> None:
        controls = self.scene.sim.controls
        hands: dict[str, Callable[[], object]] = {
            "reboot": lambda: controls.reboot_domain(vm),
            "pause": lambda: controls.set_domain_state(vm, VmState.PAUSED),
            "resume": lambda: controls.set_domain_state(vm, VmState.RUNNING),
            "undefine": lambda: controls.undefine_domain(vm),
            # As it was at first: without what it got since.
            "define": lambda: controls.define_domain(self.scene.configs[vm]) if vm in self.scene.configs else None,
            "save": lambda: controls.set_managed_save(vm, present=False),
        }
        self.scene.act(hands[what])

    # --- the host itself -------------------------------------------------------------------------------

    @rule(
        device=devices,
        kind=st.sampled_from((HostUseKind.MOUNT, HostUseKind.DEFAULT_ROUTE)),
        for_s=st.sampled_from((1.0, 60.0)),
    )
    def host_uses_for_a_while(self, device: str, kind: HostUseKind, for_s: float) -> None:
        scene = self.scene
        if scene.sim.world.kernel.visible(device):
            scene.act(lambda: scene.sim.controls.add_use(device, kind))
            scene.later(for_s, lambda: scene.sim.controls.remove_uses(device))

    @rule(device=functions)
    def operator_binds_to_vfio(self, device: str) -> None:
        scene, kernel = self.scene, self.scene.sim.world.kernel
        busy = {
            one.name for each in scene.core.store.assignments.values() if each.state.in_flight for one in each.devices
        }
        if kernel.visible(device) and kernel.devices[device].driver not in {VFIO, None} and device not in busy:
            scene.operators.add(device)
            scene.act(lambda: scene.sim.controls.bind_to_vfio(device))

    # --- guests ----------------------------------------------------------------------------------------

    @rule(
        vm=vms,
        unplug=st.sampled_from(Unplug),
        delay_s=st.sampled_from((1.0, 20.0)),
        eject_s=st.sampled_from((-1.0, -1.0, -1.0, 0.2)),
    )
    def guest_behaves(self, vm: str, unplug: Unplug, delay_s: float, eject_s: float) -> None:
        self.scene.act(lambda: self.scene.sim.controls.set_guest_behaviour(vm, unplug, delay_s, eject_s))

    # --- libvirt, hostdevd, the machine ------------------------------------------------------------------

    @rule(call=st.sampled_from(CALLS), nth=st.integers(1, 3), after=st.booleans(), gone=st.booleans())
    def libvirt_will_fail(self, call: str, nth: int, after: bool, gone: bool) -> None:  # noqa: FBT001
        self.scene.sim.controls.fail_next(call, nth=nth, after=after, gone=gone)

    @rule(for_s=st.sampled_from((0.005, 3.0, 40.0)), restarted=st.booleans())
    def libvirt_is_away(self, for_s: float, restarted: bool) -> None:  # noqa: FBT001
        scene = self.scene
        scene.act(scene.sim.controls.disconnect)
        scene.later(for_s, lambda: scene.sim.controls.reconnect(restarted=restarted))

    @rule(how=st.sampled_from(("restart", "crash", "reboot")))
    def a_new_life(self, how: str) -> None:
        getattr(self.scene, how)()

    @rule()
    def rest(self) -> None:
        self.scene.rest()
        self.scene.check_at_rest()

    @invariant()
    def nothing_is_wrong(self) -> None:
        self.scene.check()

    # --- small parts -----------------------------------------------------------------------------------

    def _some_assignment(self, data: st.DataObject) -> Assignment:
        """An open one where there is one, the newest first."""
        assignments = list(self.scene.core.store.assignments.values())
        open_ = [one for one in assignments if not one.state.closed] or assignments
        return open_[-1 - data.draw(st.integers(0, min(len(open_), 4) - 1))]

    def _others_touch(self, device: str) -> None:
        """From here on libvirt does with the group what another tool asked for, and it does not look at groups."""
        kernel = self.scene.sim.world.kernel
        node: NodeDevice = kernel.devices[device].node
        if isinstance(node.facts, PciFacts):
            group = self.scene._group(node)
            if len(group) > 1:
                self.scene.others |= group


def test_nothing_is_ever_lost() -> None:
    run_state_machine_as_test(HostMachine, settings=settings.get_profile(PROFILE))
