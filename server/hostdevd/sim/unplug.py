"""The guests: they answer unplug requests at once, late, with a no, or never.

A second request while the first is pending aborts it, as the slot's attention button does: the guest then
answers neither. USB, SCSI and reserved devices leave without asking the guest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hostdevd.core.ports import Clock, HypervisorError
from hostdevd.sim.attachment import needs_the_guest, refuse_unplug, remove_live
from hostdevd.sim.extras import Unplug
from hostdevd.sim.world import Unplugging, World


class Guests:
    """Takes unplug requests and carries out the answers when they are due; owns the timers."""

    def __init__(self, world: World, clock: Clock) -> None:
        self._world = world
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._running = False

    def start(self) -> None:
        """Begin to answer, first what was pending when the state was saved."""
        self._running = True
        for request in tuple(self._world.unplugging.values()):
            self._schedule(request)

    async def close(self) -> None:
        """End the timers; what is pending stays pending."""
        self._running = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def ask(self, uuid: str, alias: str) -> None:
        """Ask the guest to let go of the device with this alias; the answer comes as an event."""
        world = self._world
        domain = world.running(uuid)
        with world.changing():
            asks = needs_the_guest(world, uuid, alias)
            if world.unplugging.pop((uuid, alias), None) is not None:
                return
            behaviour = world.behaviour_of(domain)
            request = Unplugging(uuid, alias, due=self._clock.now())
            if asks:
                if behaviour.unplug is Unplug.NEVER or not world.answers(domain):
                    request.due = None
                elif behaviour.unplug is Unplug.DELAYED:
                    request.due = self._clock.now() + behaviour.delay_s
                request.reject = behaviour.unplug is Unplug.REJECT
            world.unplugging[uuid, alias] = request
        self._schedule(request)

    def attached(self, uuid: str, alias: str) -> None:
        """A device came to the guest: one that ejects lets go of it by itself."""
        after_s = self._world.behaviour_of(self._world.running(uuid)).eject_after_s
        if after_s >= 0:
            self._later(after_s, lambda: remove_live(self._world, uuid, alias))

    def _schedule(self, request: Unplugging) -> None:
        if request.due is not None and self._running:
            self._later(max(0.0, request.due - self._clock.now()), lambda: self._answer(request))

    def _answer(self, request: Unplugging) -> None:
        # Another request, a reboot or the guest's end may have come in between.
        if self._world.unplugging.get((request.uuid, request.alias)) is not request:
            return
        act = refuse_unplug if request.reject else remove_live
        act(self._world, request.uuid, request.alias)

    def _later(self, delay_s: float, act: Callable[[], None]) -> None:
        async def wait() -> None:
            # Never within the caller's own step: libvirt's events come after the call was taken.
            await (self._clock.sleep(delay_s) if delay_s > 0 else asyncio.sleep(0))
            try:
                act()
            except HypervisorError:
                # The device or the guest has gone meanwhile.
                return

        task = asyncio.get_running_loop().create_task(wait())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
