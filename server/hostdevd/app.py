"""The one place where the parts are put together."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from hostdevd.api.access import Access
from hostdevd.api.context import Context, caller_of
from hostdevd.api.health import Health
from hostdevd.api.interceptors import ErrorSeam
from hostdevd.api.listeners import listening
from hostdevd.api.methods import METHODS
from hostdevd.api.pages import Pages
from hostdevd.api.render import Renderer
from hostdevd.api.server import ADMIN, MAIN, WHOLE, build_server
from hostdevd.api.watch import Hub
from hostdevd.config import BUILTIN, Config, ConfigError
from hostdevd.core.administration import Administration
from hostdevd.core.audit_log import AuditLog, Retention
from hostdevd.core.effects import Effects
from hostdevd.core.engine import Engine
from hostdevd.core.holders import UNREAD
from hostdevd.core.identity import Identities
from hostdevd.core.journal import Journal
from hostdevd.core.model import Check, CheckCode, CheckStatus, OfVm
from hostdevd.core.observing import NOBODY, Observer, Several
from hostdevd.core.policy import NO_POLICY, Policy, PolicyError
from hostdevd.core.ports import Clock, Connected, Disconnected, Event, HostPort, HypervisorPort
from hostdevd.core.profiles import PROFILES
from hostdevd.core.reopening import Reopening, open_or_do_without
from hostdevd.core.roles import RolesError
from hostdevd.core.saver import Saver
from hostdevd.core.steps import Delays
from hostdevd.core.store import Senses, Store
from hostdevd.core.sync import Pace, Sync
from hostdevd.core.upkeep import cancelled
from hostdevd.doors import doors_of, limits_of, metrics_of
from hostdevd.front.addresses import ListenError
from hostdevd.front.claims import claimed
from hostdevd.front.descriptors import with_room
from hostdevd.front.doors import Doors
from hostdevd.guard_file import GuardFile
from hostdevd.ops.clock import SystemClock
from hostdevd.ops.collector import collect_after
from hostdevd.ops.logs import set_format, set_level
from hostdevd.ops.notify import Notifier, keep_told
from hostdevd.ops.operation_log import OperationLog
from hostdevd.ops.telemetry import Telemetry, TelemetryError
from hostdevd.policy_file import POLICY_FILE, into
from hostdevd.reconfigure import Apply, Reconfigure
from hostdevd.reload import Reload
from hostdevd.roles_file import ROLES_FILE
from hostdevd.rules_file import RulesFile
from hostdevd.statedir import StateDirectory, StateDirError

log = structlog.get_logger()

DRAIN_S = 2.0
HEALTH_S = 1.0
"""How late health may be told of the state directory."""
ANSWER_S = 1.0
"""How long calls that were cut short have for telling so."""


class StartError(Exception):
    """The service cannot start, in one line that says why."""


@dataclass(frozen=True, slots=True)
class Ports:
    """The world outside: libvirt and the host, or a simulated one."""

    hypervisor: HypervisorPort
    host: HostPort


@dataclass(frozen=True, slots=True)
class Core:
    """The running core."""

    store: Store
    sync: Sync
    engine: Engine
    admin: Administration
    audit: AuditLog
    journal: Journal
    ports: Ports

    @property
    def is_alive(self) -> bool:
        """Whether it still follows the host and keeps assignments true."""
        return self.sync.is_following and self.engine.is_following

    @property
    def status(self) -> str:
        """How it is, in one line."""
        libvirt = "connected" if self.sync.connected else f"not connected: {self.sync.why_disconnected}"
        fault = self.journal.fault
        state = "" if fault is None else f"; the state cannot be written: {fault.why}"
        return f"{len(self.store.devices):,} devices, {len(self.store.holders):,} held, libvirt {libvirt}{state}"


def open_ports(config: Config, clock: Clock) -> Ports:
    """The ports that the options ask for; `StartError` when they cannot be."""
    if config.simulate is not None:
        from hostdevd.sim.simulation import simulate  # noqa: PLC0415  only where it is asked for

        file = None if config.simulate == BUILTIN else Path(config.simulate)
        try:
            simulation = simulate(clock, file, config.state_dir)
        except (ValueError, OSError) as error:
            raise StartError(str(error)) from error
        return Ports(simulation.hypervisor, simulation.host)
    from hostdevd.virt.uri import check_uri, is_remote  # noqa: PLC0415  the same

    try:
        check_uri(config.connect)
    except ValueError as error:
        raise StartError(str(error)) from error
    try:
        from hostdevd.host.foreign import ForeignHost  # noqa: PLC0415
        from hostdevd.host.running import RunningHost  # noqa: PLC0415  an extra: not everybody has libvirt
        from hostdevd.virt.libvirt_port import LibvirtPort  # noqa: PLC0415
        from hostdevd.virt.xml.nodedev import node_device  # noqa: PLC0415
    except ImportError as error:
        raise StartError(
            f"libvirt's Python binding is missing ({error}); run deploy/setup --libvirt "
            "(or install hostdevd[libvirt]), or use --simulate"
        ) from error
    host = ForeignHost() if is_remote(config.connect) else RunningHost(config.sysroot, config.sriov_socket)
    return Ports(LibvirtPort(config.connect, node_device), host)


@asynccontextmanager
async def run_core(  # noqa: PLR0913  what tests may set apart
    ports: Ports,
    state_dir: Path,
    clock: Clock,
    *,
    profile: str = "default",
    policy: Policy = NO_POLICY,
    delays: Delays | None = None,
    pace: Pace | None = None,
    claim: Callable[[], None] = lambda: None,
    observer: Observer = NOBODY,
    retention: Retention | None = None,
) -> AsyncIterator[Core]:
    """The core over these ports, from the journal's opening to its close.

    A journal that cannot be opened is tried again; until then nothing can be changed. `claim` has the state
    directory for this service alone, and raises OSError where it cannot.
    """
    journal = Journal(state_dir, claim)
    loaded = await open_or_do_without(journal)
    senses = Senses(
        driver=ports.host.driver,
        identity=ports.host.identity,
        block_paths=ports.host.block_paths,
        now=clock.now,
        monotonic=clock.monotonic,
        bars=ports.host.bars,
        has_generic_node=ports.host.has_generic_node,
        kernel_release=ports.host.kernel_release,
    )
    identities = Identities(loaded.identities)
    store = Store(
        senses,
        identities,
        PROFILES[profile],
        lives=loaded.lives,
        revision=loaded.revision,
        past=loaded.past,
        policy=policy,
    )
    sync = Sync(store, ports.hypervisor, ports.host, clock, pace)
    ports.hypervisor.observe(observer)
    effects = Effects(store, sync, ports.hypervisor, ports.host, journal, clock, delays, observer)
    engine = Engine(store, sync, effects, journal, ports.host, clock, observer)
    engine.load(loaded)
    audit = AuditLog(journal, clock, retention)
    admin = Administration(store, sync, engine, ports.hypervisor, ports.host, clock, audit)
    saver = Saver(store, journal, loaded.past)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(journal.close)
        stack.push_async_callback(audit.close)
        audit.start()
        stack.push_async_callback(saver.close)
        saver.start()
        stack.push_async_callback(sync.close)
        stack.push_async_callback(engine.close)
        stack.push_async_callback(admin.close)
        await sync.start()
        engine.start()
        reopening = asyncio.create_task(Reopening(store, engine, journal, clock).run(), name="reopening")
        stack.push_async_callback(cancelled, (reopening,))
        yield Core(store, sync, engine, admin, audit, journal, ports)


async def serve(config: Config, announce: Callable[[str], None], read: Callable[[], Config] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reads the configuration again (`read`), and the files that it names.

    `announce` gets each address once calls are answered.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):  # first: the start ends cleanly too
        loop.add_signal_handler(number, stop.set)
    notifier = Notifier(os.environ)
    reload = Reload(notifier.reloading, notifier.reloaded)
    loop.add_signal_handler(signal.SIGHUP, reload.ask)
    clock = SystemClock()
    doors = doors_of(config)
    metrics_of(config)  # what makes no sense is told before anything is begun
    with claimed(doors.all), StateDirectory(config.state_dir) as state:
        ports = open_ports(config, clock)
        if os.geteuid() == 0 and config.simulate is None:
            log.warning("running as root, which needs no more than a user of its own: see deploy/systemd")
        await serve_ports(
            ports, clock, config, doors, announce, stop.wait,
            reload=reload, read=read, claim=state.claim, notifier=notifier,
        )  # fmt: skip


async def serve_ports(  # noqa: PLR0913, PLR0917  what tests put in place of the real parts
    ports: Ports,
    clock: Clock,
    config: Config,
    doors: Doors,
    announce: Callable[[str], None],
    until: Callable[[], Awaitable[object]],
    delays: Delays | None = None,
    reload: Reload | None = None,
    read: Callable[[], Config] | None = None,
    claim: Callable[[], None] = lambda: None,
    notifier: Notifier | None = None,
) -> None:
    """Serve these ports at these doors until `until` returns, then drain."""
    notifier = notifier or Notifier()
    policy_file, roles_file = RulesFile(POLICY_FILE, config.policy), RulesFile(ROLES_FILE, config.roles)
    policy, roles = await policy_file.read(), await roles_file.read()
    limits = with_room(limits_of(config))
    served = (name.removeprefix("/") for name in METHODS)
    telemetry = Telemetry(metrics=config.metrics is not None, traces_to=config.tracing, methods=served)
    async with (
        telemetry.running(),
        listening(doors, limits) as listeners,  # first: an address that is taken is told before anything is begun
        run_core(
            ports,
            config.state_dir,
            clock,
            profile=config.profile,
            policy=policy,
            delays=delays,
            claim=claim,
            retention=Retention(config.audit_keep_days, config.audit_keep_rows),
            observer=Several((OperationLog(), telemetry.observer)),
        ) as core,
    ):
        hub = Hub(core.store, core.sync, max_watchers=limits.watchers_total, observer=telemetry.watches)
        guard = GuardFile(config.state_dir, core.store, core.sync, ports.host.boot_id, lambda: core.journal.is_open)
        health = Health((WHOLE, MAIN, ADMIN))
        seam = ErrorSeam()
        access = Access(core.store, roles, caller_of)
        access.on_change.append(hub.wake)
        renderer = Renderer(core.store, lambda: core.sync.info.name if core.sync.info else "")
        context = Context(
            store=core.store,
            sync=core.sync,
            engine=core.engine,
            admin=core.admin,
            pages=Pages(clock.monotonic),
            renderer=renderer,
            hub=hub,
            access=access,
            audit=core.audit,
            now=clock.now,
            checks=lambda: _checks(core, config, guard),
        )
        server = build_server(
            context,
            health,
            seam,
            with_reflection=config.reflection,
            observers=telemetry.rpcs,
            identification=listeners.identification,
            counts=listeners.counts,
            streams=limits.streams_per_connection,
        )
        listeners.serve(server)
        applied: Apply = {
            "policy": policy_file.move,
            "roles": roles_file.move,
            "log_level": set_level,
            "log_format": set_format,
        }
        # The configuration first: it says which files there are.
        reloaded = (
            Reconfigure(config, read or (lambda: config), applied).part,
            policy_file.part(into(core.store)),
            roles_file.part(access.put),
        )
        followers = (
            asyncio.create_task(_follow_health(core, health), name="health"),
            asyncio.create_task((reload or Reload()).follow(reloaded), name="reload"),
            asyncio.create_task(renderer.keep_up(), name="pages"),
            asyncio.create_task(collect_after(core.sync.synced), name="collector"),
            asyncio.create_task(keep_told(notifier, lambda: core.status, lambda: core.is_alive), name="notify"),
        )
        guard.start()
        scraped = ExitStack()
        try:
            scraped.enter_context(_metrics(telemetry, core, hub, clock, config, listeners.certificate_ends))
            await server.start()
            listeners.open(announce)
            notifier.ready()
            await until()
            log.info("shutting down")
        finally:
            notifier.stopping()
            await cancelled(followers)
            listeners.stop_accepting()
            core.engine.stop_accepting()
            health.end()
            await hub.drain(DRAIN_S)
            # No new calls; what runs may end by itself, then it is told why it cannot.
            stopped = asyncio.create_task(server.stop(grace=DRAIN_S + ANSWER_S), name="stop")
            await asyncio.wait({stopped}, timeout=DRAIN_S)
            seam.close()
            await stopped
            await guard.close()
            scraped.close()


@contextmanager
def _metrics(  # noqa: PLR0913, PLR0917  what there is to tell of
    telemetry: Telemetry,
    core: Core,
    hub: Hub,
    clock: Clock,
    config: Config,
    certificate_ends: Callable[[], Mapping[str, float]],
) -> Iterator[None]:
    """Prometheus metrics where they are asked for."""
    address = metrics_of(config)
    if address is None:
        yield
        return
    from hostdevd.ops.metrics import Sources  # noqa: PLC0415  only where it is asked for

    sources = Sources(
        core.store,
        core.sync,
        core.journal,
        core.ports.hypervisor,
        lambda: hub.watchers,
        clock.now,
        clock.now(),
        certificate_ends,
    )
    try:
        with (
            claimed((address,)),
            telemetry.scraped(sources, path=address.path, host=address.host, port=address.port) as port,
        ):
            log.info("serving metrics", address=config.metrics, port=port)
            yield
    except OSError as error:
        raise ListenError(f"metrics {config.metrics}: {error.strerror}") from error


async def _follow_health(core: Core, health: Health) -> None:
    """SERVING while the store is in step with libvirt; what only changes things, while they can be recorded too."""
    sync, journal = core.sync, core.journal
    changed = asyncio.Event()

    def hear(event: Event) -> None:
        if isinstance(event, Connected | Disconnected):
            changed.set()

    stop = sync.listen(hear)
    try:
        while True:
            changed.clear()
            can_record = journal.is_open and journal.fault is None
            health.set({WHOLE: sync.connected, MAIN: sync.connected, ADMIN: sync.connected and can_record})
            # A connection that broke tells at once; one that came back counts when the store has caught up.
            # The state directory tells nothing.
            with suppress(TimeoutError):
                async with asyncio.timeout(HEALTH_S):
                    await (changed.wait() if sync.connected else sync.synced.wait())
    finally:
        stop()


async def _checks(core: Core, config: Config, guard: GuardFile) -> Sequence[Check]:
    """`GetHost`'s report: libvirt and the state store from here, the rest from the host."""
    sync = core.sync
    if sync.connected:
        libvirt = Check(CheckCode.LIBVIRT, CheckStatus.PASS, "libvirt answers")
    else:
        libvirt = Check(
            CheckCode.LIBVIRT,
            CheckStatus.FAIL,
            f"libvirt does not answer at {config.connect}: {sync.why_disconnected}",
            "start libvirtd (or virtqemud and virtnodedevd), and see that hostdevd may use its socket",
        )
    if core.store.devices:
        devices = Check(CheckCode.NODE_DEVICES, CheckStatus.PASS, f"{len(core.store.devices)} node devices are listed")
    else:
        devices = Check(
            CheckCode.NODE_DEVICES,
            CheckStatus.FAIL,
            "libvirt lists no node devices",
            "install libvirt-daemon-driver-nodedev and see that udev runs",
        )
    fault = core.journal.fault
    state = Check(CheckCode.STATE_STORE, CheckStatus.PASS, f"{config.state_dir} can be written")
    if fault is not None:
        what = "the last write failed" if core.journal.is_open else "nothing can be attached or detached"
        state = Check(CheckCode.STATE_STORE, CheckStatus.FAIL, f"{what}: {fault.why}", fault.remedy)
    elif guard.fault is not None:
        state = Check(
            CheckCode.STATE_STORE,
            CheckStatus.WARN,
            f"the start guard's file is out of date: {guard.fault}",
            f"see that {config.state_dir} can be written; until then the hook judges by what was assigned before",
        )
    host = [
        _with_libvirts(check, core.store.pool_gaps, core.store.domain_gaps)
        for check in await core.ports.host.checks(sync.listed)
    ]
    host = [_with_refused(check, core.ports.hypervisor.refused()) for check in host]
    return (libvirt, devices, *host, state)


def _with_libvirts(check: Check, pools: tuple[str, ...], domains: tuple[OfVm, ...] = ()) -> Check:
    """What libvirt's networks own and VMs hold is a use that the host itself knows nothing of."""
    if check.code is not CheckCode.HOST_USES or not (pools or domains):
        return check
    told = [check.message, check.remedy] if check.status is CheckStatus.FAIL else ["", ""]
    remedies = (
        "see `virsh net-list`, that virtnetworkd runs, and that hostdevd may search and read networks" if pools else "",
        "see `virsh dumpxml` of these virtual machines" if domains else "",
    )
    message = "; ".join(filter(None, (told[0], *pools, UNREAD if domains else "")))
    return Check(check.code, CheckStatus.FAIL, message, "; ".join(filter(None, (told[1], *remedies))), domains)


def _with_refused(check: Check, refused: Sequence[str]) -> Check:
    """What the host shows is one half of what the service may; what libvirt lets it do, the other."""
    if check.code is not CheckCode.PERMISSIONS or not refused:
        return check
    told = [check.message, check.remedy] if check.status is CheckStatus.FAIL else ["", ""]
    message = "; ".join(filter(None, (told[0], f"libvirt refuses {'; '.join(refused)}")))
    remedy = "give the service's user its rights: deploy/polkit/50-hostdevd.rules in /etc/polkit-1/rules.d"
    return Check(check.code, CheckStatus.FAIL, message, "; ".join(filter(None, (told[1], remedy))))


def run(config: Config, read: Callable[[], Config]) -> int:
    """Run the service, `read` being the way to read its options again; returns the process's exit status."""

    def announce(address: str) -> None:
        print(f"listening on {address}", flush=True)  # noqa: T201  the one line on standard output

    try:
        asyncio.run(serve(config, announce, read))
    except (
        *(StartError, StateDirError, ListenError, ConfigError),
        *(PolicyError, RolesError, TelemetryError),
    ) as error:
        print(f"hostdevd: {error}", file=sys.stderr)  # noqa: T201  one clear line, and no log around it
        return 1
    return 0
