"""Brings the lab host up after its early boot: udev, what the host uses, libvirt, guests.

Writes ``/run/lab/status.json`` once, at its end: ``{"status": 0, "times_s": {step: uptime}}``
or ``{"error": text}``. Uptime counts from the lab kernel's start.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from . import production
from .agent import CONFIG, STATUS
from .guests import domain_xml
from .lookup import Lookup
from .topology import Guest, Topology, parse

Step = tuple[str, Callable[[], None]]
Use = Callable[[str, str], None]
TOPOLOGY = Path("/lab/config/topology.toml")
GUEST_DIR = Path("/run/lab/guests")
SAVED = Path("/lab/guests")
_COPIES = Path("/var/lib/lab-guests")
_GUEST_BOOTS = 3
_QEMU_CONF = """# Written by the lab: QEMU runs as root without confinement, which the lab's kernel lacks.
security_driver = "none"
user = "root"
group = "root"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
"""
_LIBVIRTD_CONF = """unix_sock_rw_perms = "0700"
auth_unix_ro = "none"
auth_unix_rw = "none"
"""


def main() -> None:
    """Run every step; the status file says how it went."""
    config = json.loads(CONFIG.read_text())
    topology = parse(TOPOLOGY.read_text())
    times: dict[str, float] = {}
    # One after the other: side by side was no faster on two cores.
    steps: list[Step] = [
        ("udev", _settle),
        ("modules", lambda: _load_modules(topology)),
        ("uses", lambda: _use_devices(topology)),
        ("libvirt", _start_production_libvirt if config["profile"] == "systemd" else _start_libvirt),
    ]
    if not config["boot_only_host"]:
        steps += [
            ("guests_started", lambda: _start_guests(topology.guests, keeps_state=config["keeps_state"])),
            ("guests_ready", lambda: _await_guests(topology.guests)),
        ]
    if config["profile"] == "systemd":
        steps += [("service_installed", production.install), ("service_ready", production.start_service)]
    result: dict[str, object] = {"status": 0, "times_s": times}
    if (error := _run(steps, times)) is not None:
        result["error"] = error
    STATUS.with_suffix(".new").write_text(json.dumps(result))
    STATUS.with_suffix(".new").rename(STATUS)


def _run(steps: list[Step], times: dict[str, float]) -> str | None:
    for name, step in steps:
        try:
            step()
        except Exception as error:  # noqa: BLE001  whatever it was, the outer side must hear of it
            traceback.print_exc()
            return f"{name}: {error}"
        times[name] = round(time.clock_gettime(time.CLOCK_BOOTTIME), 1)
    return None


def call(*command: str, timeout_s: float = 300) -> str:
    """Run a program; its stdout. RuntimeError carries its stderr."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=timeout_s, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def _settle() -> None:
    call("udevadm", "settle", "--timeout=240")


def _load_modules(topology: Topology) -> None:
    call("modprobe", "-a", "vfio_pci", "sg", "sd_mod")
    debug = topology.scsi_debug
    if debug.max_luns:
        # A LUN's WWN is its own, as a real disk's is, and not made of the SCSI host's number.
        options = (f"max_luns={debug.max_luns}", f"dev_size_mb={debug.dev_size_mb}", "delay=0", "vpd_use_hostno=0")
        call("modprobe", "scsi_debug", *options)
    call("udevadm", "settle", "--timeout=240")


def _use_devices(topology: Topology) -> None:
    lookup = Lookup(topology)
    for device in topology.devices:
        kind, _, argument = device.use.partition(":")
        if not kind or not device.plugged:
            continue
        found = lookup.describe(device)
        if kind in _USES_OF_A_DISK:
            _USES_OF_A_DISK[kind](f"/dev/{_first(found, 'block', device.role)}", argument)
        elif kind in _USES_OF_A_NIC:
            _USES_OF_A_NIC[kind](_first(found, "net", device.role), argument)
        else:
            raise RuntimeError(f"{device.role}: unknown use {device.use!r}")
    call("udevadm", "settle", "--timeout=240")


def _mount(block: str, directory: str) -> None:
    os.makedirs(directory, exist_ok=True)
    call("mount", block, directory)


def _swap(block: str, _: str) -> None:
    call("swapon", block)


def _lvm(block: str, group: str) -> None:
    call("modprobe", "dm_mod")
    call("pvcreate", "-ff", "-y", block)
    call("vgcreate", group, block)
    call("lvcreate", "-y", "-Wn", "-Zn", "-l", "50%FREE", "-n", "lablv", group)


def _md(block: str, name: str) -> None:
    """A RAID-1 that has lost a member: with one disk it is an array all the same."""
    call("modprobe", "raid1")
    layout = ("--level=1", "--raid-devices=2", "--metadata=1.2", "--run")
    call("mdadm", "--create", f"/dev/md/{name}", *layout, block, "missing")


def _bridge(nic: str, bridge: str) -> None:
    if not Path("/sys/class/net", bridge).exists():
        call("ip", "link", "add", bridge, "type", "bridge")
    call("ip", "link", "set", nic, "master", bridge)
    call("ip", "link", "set", nic, "up")
    call("ip", "link", "set", bridge, "up")


def _address(nic: str, address: str) -> None:
    call("ip", "address", "add", address, "dev", nic)
    call("ip", "link", "set", nic, "up")


_USES_OF_A_DISK: dict[str, Use] = {"mount": _mount, "swap": _swap, "lvm": _lvm, "md": _md}
_USES_OF_A_NIC: dict[str, Use] = {"bridge": _bridge, "address": _address}


def _first(found: dict[str, object], key: str, role: str) -> str:
    names = found.get(key)
    if not isinstance(names, list) or not names:
        raise RuntimeError(f"{role}: the lab shows no {key} device for it")
    return str(names[0])


def _start_libvirt() -> None:
    _configure_libvirt(_QEMU_CONF, _LIBVIRTD_CONF)
    for daemon in ("virtlogd", "libvirtd"):
        with open(f"/var/log/lab/{daemon}.log", "ab") as log:
            subprocess.Popen(
                ["/usr/sbin/" + daemon], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
    _await_libvirt()


def _start_production_libvirt() -> None:
    """Its sockets are there: the first connection starts it."""
    _configure_libvirt(production.QEMU_CONF, production.LIBVIRTD_CONF)
    _await_libvirt()


def _configure_libvirt(qemu: str, libvirtd: str) -> None:
    call("modprobe", "kvm_amd")
    Path("/etc/libvirt/qemu.conf").write_text(qemu)
    Path("/etc/libvirt/libvirtd.conf").write_text(libvirtd)
    for directory in (
        "/var/log/libvirt/qemu",
        "/var/lib/libvirt/qemu",
        "/var/lib/libvirt/images",
        "/var/cache/libvirt/qemu",
    ):
        os.makedirs(directory, exist_ok=True)


def _await_libvirt() -> None:
    deadline = time.monotonic() + 240
    while True:
        try:
            call("virsh", "-c", "qemu:///system", "version")
        except RuntimeError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)
        else:
            return


def _start_guests(guests: tuple[Guest, ...], *, keeps_state: bool) -> None:
    """Define all guests; start those that have a saved state, all at once."""
    known = set(call("virsh", "list", "--all", "--name").split()) if keeps_state else set[str]()
    script = []
    for guest in guests:
        for end in ("in", "out"):
            path = GUEST_DIR / f"{guest.name}.{end}"
            if not path.exists():
                os.mkfifo(path, 0o600)
        xml = _xml_file(guest)
        xml.write_text(domain_xml(guest))
        # A kept state disk brings its domains with it, changed by whoever used them: those are booted.
        if guest.name in known:
            continue
        if guest.persistent:
            script.append(f"define {xml}")
        if guest.running and saved_image(guest).exists():
            script.append(f"restore {saved_image(guest)} --running")
    if script:
        call("virsh", "; ".join(script), timeout_s=450)


def _await_guests(guests: tuple[Guest, ...]) -> None:
    """Boot those without a saved state, one at a time, and keep what each has become at once.

    A boot is when the emulated machine is most likely to die; what was kept before it did need not be done again.
    """
    running = set(call("virsh", "list", "--name").split())
    for guest in guests:
        if not guest.running:
            continue
        if guest.name not in running:
            _boot(guest)
        _await_answer(guest)
        if not saved_image(guest).exists():
            _keep(guest)


def _boot(guest: Guest) -> None:
    call("virsh", f"start {guest.name}" if guest.persistent else f"create {_xml_file(guest)}", timeout_s=300)


def _await_answer(guest: Guest) -> None:
    """A guest that hangs is booted again: the rest of the lab need not be."""
    for attempt in range(_GUEST_BOOTS):
        if attempt:
            print(f"guest {guest.name} hangs: booting it again", flush=True)
            saved_image(guest).unlink(missing_ok=True)  # if it came from there, not again
            call("virsh", f"destroy {guest.name}")
            _boot(guest)
        try:
            _answers(guest)
        except RuntimeError as error:
            failure = error
        else:
            return
    saved_image(guest).unlink(missing_ok=True)
    raise failure


def _keep(guest: Guest) -> None:
    """Save a guest as it is after its boot, and go on from there."""
    image = saved_image(guest)
    fresh = image.with_suffix(".new")
    # With systemd libvirt gives what QEMU writes to QEMU's user; what is in the cache is not its to give.
    saved = _COPIES / image.name if Path("/run/systemd/system").is_dir() else fresh
    saved.parent.mkdir(exist_ok=True)
    call("virsh", f"save {guest.name} {saved} --running", timeout_s=300)
    for old in SAVED.glob(f"{guest.name}-*.save"):
        old.unlink()
    if saved != fresh:
        shutil.move(saved, fresh, copy_function=shutil.copyfile)
    fresh.rename(image)
    call("virsh", f"restore {image} --running", timeout_s=300)
    _answers(guest)


def _xml_file(guest: Guest) -> Path:
    return GUEST_DIR / f"{guest.name}.xml"


def _answers(guest: Guest) -> None:
    command = f"{Path(__file__).parents[1]}/inside/bin/lab-guest"
    call(command, "--timeout", "120", guest.name, "true", timeout_s=150)


def saved_image(guest: Guest) -> Path:
    """Where a guest's state after boot is kept: another definition, kernel or QEMU has another."""
    emulator = Path("/usr/bin/qemu-system-x86_64").stat()
    parts = [domain_xml(guest), os.uname().release, f"{emulator.st_size} {emulator.st_mtime_ns}"]
    initramfs = Path("/lab/boot/guest.cpio").stat().st_size
    digest = hashlib.sha256("\n".join([*parts, str(initramfs)]).encode()).hexdigest()
    return SAVED / f"{guest.name}-{digest[:16]}.save"


if __name__ == "__main__":
    main()
