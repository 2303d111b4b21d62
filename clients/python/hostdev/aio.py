"""The same client for asyncio: every call is awaited, lists and watches are asynchronous iterators.

>>> import asyncio
>>> from hostdev.aio import AsyncHostdevClient
>>> from hostdev.v1 import assignment_pb2, device_pb2

>>> async def main():
...     async with AsyncHostdevClient() as client:  # at HOSTDEV_ADDRESS
...         free = device_pb2.DeviceFilter(types=["usb_device"], ids=["0781:*"])
...         async for eligible in client.list_eligible(free, available_only=True):
...             print(eligible.device.name, eligible.device.description)
...         holders = await client.list_holders(vms=["alpha"])  # the first page, which has the token
...         async with client.attached("alpha", "usb_2_4", scope=assignment_pb2.SCOPE_LIVE):
...             async for message in client.watch_holders(vms=["alpha"], resume_token=holders.resume_token):
...                 print([change.holder.device for change in message.change_batch.changes])
...                 break
>>> asyncio.run(main())
usb_2_4 SanDisk Corp. Cruzer Blade (usb)
['usb_2_4']
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self, TypeVar

import grpc
from google.protobuf.message import Message

from hostdev.channel import Connection, Tls
from hostdev.errors import HostdevApiError, HostdevError, client_closed
from hostdev.holding import Holding, may_be_held, tell_request
from hostdev.listing import AnyPage, AsyncListing, Item
from hostdev.policy import DEFAULT_TIMEOUT_S, GRACE_S
from hostdev.progress import Patience, Progress
from hostdev.requests import DEFAULT_WAIT_S, ListRequest, Requests, method_of, page_of
from hostdev.v1 import assignment_pb2, device_pb2, group_pb2, holder_pb2, host_pb2, service_pb2
from hostdev.v1.service_pb2_grpc import HostDeviceAdminServiceStub, HostDeviceServiceStub
from hostdev.watch import follow_async, is_cancelled

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response")


class AsyncHostdevClient:
    """Talks to the hostdevd at `address`, with the arguments and the errors of `hostdev.HostdevClient`.

    Use as an asynchronous context manager, or `close` it; belongs to the event loop that runs when it is made.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        host: str = "",
        tls: Tls | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        connection = Connection.to(address, tls, credentials)
        self.address = connection.address
        self.host = host
        self.timeout_s = timeout_s
        self._closed = False
        self._requests = Requests(host)
        self._channel = connection.open_async()
        self.service = HostDeviceServiceStub(self._channel)
        self.admin = HostDeviceAdminServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Drop the connection. What the server is doing goes on; calls and watches end with code CANCELLED."""
        self._closed = True
        await self._channel.close()

    # --- the host and its devices

    async def get_host(self) -> host_pb2.Host:
        """The host and whether it is fit for assigning devices."""
        return (await self._call(self.service.GetHost, self._requests.get_host())).host

    def list_devices(
        self, device_filter: device_pb2.DeviceFilter | None = None, *, page_size: int = 0
    ) -> AsyncListing[device_pb2.Device]:
        """All devices, or those that match."""
        request = self._requests.list_devices(device_filter, page_size)
        return self._list(self.service.ListDevices, request, lambda page: page.devices)

    async def get_device(self, device: str) -> device_pb2.Device:
        """One device, by libvirt's name or its uid."""
        return (await self._call(self.service.GetDevice, self._requests.get_device(device))).device

    def list_eligible(
        self,
        device_filter: device_pb2.DeviceFilter | None = None,
        *,
        available_only: bool = False,
        include_ineligible: bool = False,
        page_size: int = 0,
    ) -> AsyncListing[service_pb2.EligibleDevice]:
        """The devices that can be assigned, each with what the host would lose."""
        request = self._requests.list_eligible(
            device_filter, page_size, available_only=available_only, include_ineligible=include_ineligible
        )
        return self._list(self.service.ListEligible, request, lambda page: page.eligible_devices)

    def list_groups(
        self, device_filter: device_pb2.DeviceFilter | None = None, *, page_size: int = 0
    ) -> AsyncListing[group_pb2.Group]:
        """All groups, or those with a member that matches."""
        request = self._requests.list_groups(device_filter, page_size)
        return self._list(self.service.ListGroups, request, lambda page: page.groups)

    async def get_group(self, *, group: str = "", device: str = "") -> group_pb2.Group:
        """One group: give its uid, or a device in it."""
        return (await self._call(self.service.GetGroup, self._requests.get_group(group, device))).group

    # --- attach and detach

    async def attach(  # noqa: PLR0913 (the fields of the request)
        self,
        vm: str,
        device: str,
        *,
        group_policy: assignment_pb2.GroupPolicy.ValueType = assignment_pb2.GROUP_POLICY_UNSPECIFIED,
        scope: assignment_pb2.Scope.ValueType = assignment_pb2.SCOPE_UNSPECIFIED,
        expected_affected: Iterable[str] | None = None,
        validate_only: bool = False,
        request_id: str | None = None,
        wait_s: float = DEFAULT_WAIT_S,
    ) -> service_pb2.AttachResponse:
        """As `HostdevClient.attach`."""
        request = self._requests.attach(
            vm,
            device,
            group_policy=group_policy,
            scope=scope,
            expected_affected=expected_affected,
            validate_only=validate_only,
            request_id=request_id,
            wait_s=wait_s,
        )
        return await self._call(self.service.Attach, request, wait_s + GRACE_S)

    async def detach(  # noqa: PLR0913 (the same)
        self,
        *,
        assignment: str = "",
        vm: str = "",
        device: str = "",
        scope: assignment_pb2.Scope.ValueType = assignment_pb2.SCOPE_UNSPECIFIED,
        validate_only: bool = False,
        wait_s: float = DEFAULT_WAIT_S,
    ) -> service_pb2.DetachResponse:
        """As `HostdevClient.detach`."""
        request = self._requests.detach(
            assignment=assignment, vm=vm, device=device, scope=scope, validate_only=validate_only, wait_s=wait_s
        )
        return await self._call(self.service.Detach, request, wait_s + GRACE_S)

    @asynccontextmanager
    async def attached(  # noqa: PLR0913 (the same)
        self,
        vm: str,
        device: str,
        *,
        group_policy: assignment_pb2.GroupPolicy.ValueType = assignment_pb2.GROUP_POLICY_UNSPECIFIED,
        scope: assignment_pb2.Scope.ValueType = assignment_pb2.SCOPE_UNSPECIFIED,
        expected_affected: Iterable[str] | None = None,
        request_id: str | None = None,
        wait_s: float = DEFAULT_WAIT_S,
    ) -> AsyncGenerator[assignment_pb2.Assignment, None]:
        """As `HostdevClient.attached`, for `async with`."""
        request_id = request_id or str(uuid.uuid4())
        holding = Holding.unanswered(request_id)
        try:
            answer = await self.attach(
                vm,
                device,
                group_policy=group_policy,
                scope=scope,
                expected_affected=expected_affected,
                request_id=request_id,
                wait_s=wait_s,
            )
            holding = Holding.of(answer)
            holding.check_attached()
        except BaseException as failure:
            if may_be_held(failure):
                tell_request(failure, request_id)
                try:
                    await self._release(holding, 0)
                except HostdevError as error:
                    holding.note_on(failure, error)
            raise
        try:
            yield holding.assignment
        except BaseException as failure:
            try:
                await self._release(holding, wait_s)
            except HostdevError as error:
                holding.note_on(failure, error)
            raise
        await self._release(holding, wait_s)

    async def _release(self, holding: Holding, wait_s: float) -> None:
        name = holding.assignment.name
        holding.check_detached(await self.detach(assignment=name, scope=holding.scope, wait_s=wait_s))

    # --- records and holders

    def list_assignments(
        self,
        *,
        vm: str = "",
        device: str = "",
        states: Iterable[assignment_pb2.AssignmentState.ValueType] = (),
        page_size: int = 0,
    ) -> AsyncListing[assignment_pb2.Assignment]:
        """Assignments, those closed within 30 days included."""
        request = self._requests.list_assignments(vm, device, states, page_size)
        return self._list(self.service.ListAssignments, request, lambda page: page.assignments)

    async def get_assignment(self, name: str) -> assignment_pb2.Assignment:
        """One assignment, by its name: the attach's request id."""
        return (await self._call(self.service.GetAssignment, self._requests.get_assignment(name))).assignment

    async def forget_assignment(self, name: str) -> assignment_pb2.Assignment:
        """Remove the record of an assignment that holds nothing any more; the record as it was."""
        return (await self._call(self.service.ForgetAssignment, self._requests.forget_assignment(name))).assignment

    def list_holders(
        self, *, devices: Iterable[str] = (), vms: Iterable[str] = (), page_size: int = 0
    ) -> AsyncListing[holder_pb2.Holder]:
        """Which VMs, running or not, hold which devices."""
        request = self._requests.list_holders(devices, vms, page_size)
        return self._list(self.service.ListHolders, request, lambda page: page.holders)

    # --- watches

    def watch_holders(  # noqa: PLR0913 (the same)
        self,
        *,
        devices: Iterable[str] = (),
        vms: Iterable[str] = (),
        resume_token: str = "",
        changes_only: bool = False,
        patience: Patience | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> AsyncGenerator[service_pb2.WatchHoldersResponse, None]:
        """As `HostdevClient.watch_holders`, for `async for`; `pause` stands in for the clock in tests."""
        patience = patience or Patience()
        request = self._requests.watch_holders(devices, vms, patience.bookmark_interval_s)
        progress = Progress("WatchHolders", resume_token, changes_only, patience, lambda: self._closed)
        return follow_async(self.service.WatchHolders, request, service_pb2.WatchHoldersResponse, progress, pause)

    def watch_devices(
        self,
        device_filter: device_pb2.DeviceFilter | None = None,
        *,
        resume_token: str = "",
        changes_only: bool = False,
        patience: Patience | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> AsyncGenerator[service_pb2.WatchDevicesResponse, None]:
        """Follow the devices; everything else as in `watch_holders`."""
        patience = patience or Patience()
        request = self._requests.watch_devices(device_filter, patience.bookmark_interval_s)
        progress = Progress("WatchDevices", resume_token, changes_only, patience, lambda: self._closed)
        return follow_async(self.service.WatchDevices, request, service_pb2.WatchDevicesResponse, progress, pause)

    # --- virtual functions and mediated devices

    async def set_virtual_functions(
        self, device: str, count: int, *, timeout_s: float | None = None
    ) -> device_pb2.Device:
        """Set how many virtual functions a physical one has; the physical function.

        The device's driver may take minutes: `timeout_s` is in place of the client's. After it
        (`OPERATION_IN_PROGRESS`) the work goes on, and the same call waits again.
        """
        request = self._requests.set_virtual_functions(device, count)
        return (await self._call(self.admin.SetVirtualFunctions, request, timeout_s)).device

    async def create_mediated_device(  # noqa: PLR0913  the fields of the request
        self,
        parent: str,
        type_id: str,
        *,
        mdev_uuid: str | None = None,
        attributes: Mapping[str, str] | None = None,
        persistent: bool = False,
        timeout_s: float | None = None,
    ) -> device_pb2.Device:
        """Make a mediated device of one of the parent's types; safe to repeat with a `mdev_uuid`.

        A `persistent` one is started with its parent from then on. `timeout_s` is in place of the client's.
        """
        request = self._requests.create_mediated_device(
            parent, type_id, mdev_uuid=mdev_uuid, attributes=attributes, persistent=persistent
        )
        return (await self._call(self.admin.CreateMediatedDevice, request, timeout_s)).device

    async def delete_mediated_device(self, device: str) -> None:
        """Remove a mediated device."""
        await self._call(self.admin.DeleteMediatedDevice, self._requests.delete_mediated_device(device))

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        timeout_s: float | None = None,
    ) -> Response:
        """Make a call; without a deadline of its own it has the client's."""
        try:
            return await method(request, timeout=self.timeout_s if timeout_s is None else timeout_s)
        except grpc.RpcError as error:
            raise HostdevApiError.from_rpc_error(error, method_of(request)) from error
        except (grpc.aio.UsageError, asyncio.CancelledError) as error:
            if self._closed and not is_cancelled():
                raise client_closed(method_of(request)) from error
            raise

    def _list(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[ListRequest, AnyPage],
        request: ListRequest,
        items: Callable[[AnyPage], Iterable[Item]],
    ) -> AsyncListing[Item]:
        return AsyncListing(lambda token: self._call(method, page_of(request, token)), items)
