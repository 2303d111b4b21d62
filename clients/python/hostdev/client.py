"""A client of one hostdevd: its calls as methods, its lists as iterators, its errors as exceptions.

>>> from hostdev import HostdevClient
>>> from hostdev.v1 import assignment_pb2, device_pb2
>>> client = HostdevClient()  # at HOSTDEV_ADDRESS
>>> client.get_host().name
'simulated'

What is free among the PCI network devices, with what the host would lose:

>>> network = device_pb2.DeviceFilter(types=["pci"], pci_classes=["02"], iommu_groups=[7, 9])
>>> for eligible in client.list_eligible(network, available_only=True):
...     print(eligible.device.name, [affected.name for affected in eligible.affected])
pci_0000_01_00_0 ['net_eth1_52_54_00_1a_b0_01']
pci_0000_04_00_0 ['pci_0000_04_00_1', 'net_eth4_52_54_00_1a_b0_04', 'net_eth5_52_54_00_1a_b0_05']
pci_0000_04_00_1 ['pci_0000_04_00_0', 'net_eth5_52_54_00_1a_b0_05', 'net_eth4_52_54_00_1a_b0_04']

For the time of a block a running VM has one of them:

>>> with client.attached("alpha", "pci_0000_01_00_0", scope=assignment_pb2.SCOPE_LIVE) as assignment:
...     print([(device.name, device.current_driver) for device in assignment.devices])
[('pci_0000_01_00_0', 'vfio-pci')]
>>> client.get_device("pci_0000_01_00_0").driver
'e1000e'

Who holds what, and every change from there, over restarts of the server too:

>>> holders = client.list_holders()
>>> [(holder.vm.name, holder.device) for holder in holders]
[('keeper', 'pci_0000_16_00_0')]
>>> changes = client.watch_holders(resume_token=holders.resume_token)
>>> attached = client.attach("spare", "pci_0000_01_00_0")
>>> message = next(changes)
>>> [change.holder.vm.name for change in message.change_batch.changes]
['spare']
>>> changes.close()
>>> client.detach(assignment=attached.assignment.name).assignment.state == assignment_pb2.ASSIGNMENT_STATE_DETACHED
True
>>> client.close()
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TypeVar

import grpc
from google.protobuf.message import Message

from hostdev.channel import Connection, Tls
from hostdev.errors import HostdevApiError, HostdevError, client_closed
from hostdev.holding import Holding, may_be_held, tell_request
from hostdev.listing import AnyPage, Item, Listing
from hostdev.policy import DEFAULT_TIMEOUT_S, GRACE_S
from hostdev.progress import Patience, Progress
from hostdev.requests import DEFAULT_WAIT_S, ListRequest, Requests, method_of, page_of
from hostdev.v1 import assignment_pb2, device_pb2, group_pb2, holder_pb2, host_pb2, service_pb2
from hostdev.v1.service_pb2_grpc import HostDeviceAdminServiceStub, HostDeviceServiceStub
from hostdev.watch import follow

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response")


class HostdevClient:
    """Talks to the hostdevd at `address`: `unix:/path` or `host:port`.

    Without an address: the environment's HOSTDEV_ADDRESS, else the local socket. `host`, a name or a UUID, guards
    every call against reaching another host's server. `tls`, else the environment's HOSTDEV_TLS_CA, HOSTDEV_TLS_CERT
    and HOSTDEV_TLS_KEY, encrypts the connection; `credentials` are gRPC's own. A host that is not this one is refused
    (ValueError) without either, a socket with `tls`. `timeout_s` bounds calls other than
    Attach, Detach and watches, which have a time of their own; reads are tried again when the server is away.

    Every method raises `HostdevApiError` when the call fails. Use as a context manager, or `close` it. May be
    shared between threads. `service` and `admin` are the bare stubs.
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
        self._channel = connection.open()
        self.service = HostDeviceServiceStub(self._channel)
        self.admin = HostDeviceAdminServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connection. What the server is doing goes on; calls and watches end with code CANCELLED."""
        self._closed = True
        self._channel.close()

    # --- the host and its devices

    def get_host(self) -> host_pb2.Host:
        """The host and whether it is fit for assigning devices."""
        return self._call(self.service.GetHost, self._requests.get_host()).host

    def list_devices(
        self, device_filter: device_pb2.DeviceFilter | None = None, *, page_size: int = 0
    ) -> Listing[device_pb2.Device]:
        """All devices, or those that match."""
        request = self._requests.list_devices(device_filter, page_size)
        return self._list(self.service.ListDevices, request, lambda page: page.devices)

    def get_device(self, device: str) -> device_pb2.Device:
        """One device, by libvirt's name or its uid."""
        return self._call(self.service.GetDevice, self._requests.get_device(device)).device

    def list_eligible(
        self,
        device_filter: device_pb2.DeviceFilter | None = None,
        *,
        available_only: bool = False,
        include_ineligible: bool = False,
        page_size: int = 0,
    ) -> Listing[service_pb2.EligibleDevice]:
        """The devices that can be assigned, each with what the host would lose."""
        request = self._requests.list_eligible(
            device_filter, page_size, available_only=available_only, include_ineligible=include_ineligible
        )
        return self._list(self.service.ListEligible, request, lambda page: page.eligible_devices)

    def list_groups(
        self, device_filter: device_pb2.DeviceFilter | None = None, *, page_size: int = 0
    ) -> Listing[group_pb2.Group]:
        """All groups, or those with a member that matches."""
        request = self._requests.list_groups(device_filter, page_size)
        return self._list(self.service.ListGroups, request, lambda page: page.groups)

    def get_group(self, *, group: str = "", device: str = "") -> group_pb2.Group:
        """One group: give its uid, or a device in it."""
        return self._call(self.service.GetGroup, self._requests.get_group(group, device)).group

    # --- attach and detach

    def attach(  # noqa: PLR0913 (the fields of the request)
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
        """Give a device, with its group, to a VM; wait up to `wait_s` seconds for the result.

        A `request_id` is made when none is given. It is the assignment's name, and a repeat with it is safe: make
        one yourself (a UUID) where a lost answer must not lose the assignment. `expected_affected` are the uids
        of all devices that the host may lose beside this one; None is not checked.
        """
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
        return self._call(self.service.Attach, request, wait_s + GRACE_S)

    def detach(  # noqa: PLR0913 (the same)
        self,
        *,
        assignment: str = "",
        vm: str = "",
        device: str = "",
        scope: assignment_pb2.Scope.ValueType = assignment_pb2.SCOPE_UNSPECIFIED,
        validate_only: bool = False,
        wait_s: float = DEFAULT_WAIT_S,
    ) -> service_pb2.DetachResponse:
        """Take back what was attached together, by assignment or by VM and device; wait up to `wait_s` seconds.

        The answer may still be `DETACHING`: the guest has not let go yet, and the server goes on.
        """
        request = self._requests.detach(
            assignment=assignment, vm=vm, device=device, scope=scope, validate_only=validate_only, wait_s=wait_s
        )
        return self._call(self.service.Detach, request, wait_s + GRACE_S)

    @contextmanager
    def attached(  # noqa: PLR0913 (the same)
        self,
        vm: str,
        device: str,
        *,
        group_policy: assignment_pb2.GroupPolicy.ValueType = assignment_pb2.GROUP_POLICY_UNSPECIFIED,
        scope: assignment_pb2.Scope.ValueType = assignment_pb2.SCOPE_UNSPECIFIED,
        expected_affected: Iterable[str] | None = None,
        request_id: str | None = None,
        wait_s: float = DEFAULT_WAIT_S,
    ) -> Generator[assignment_pb2.Assignment, None, None]:
        """Attach as `attach` does; detach when the block ends, however it ends. The value is the assignment.

        Takes back what this attach has added: what the VM held before in the other scope, it keeps. A block that
        fails raises its own error; a detach that fails then too is told in its notes.

        Raises:
            UnfinishedError: attach or detach did not come to its end within `wait_s`; the server goes on with it.
                An attach that may have begun all the same is asked to be taken back, once; `request_id` of the error
                names it, and the error's notes tell when that failed too.
        """
        request_id = request_id or str(uuid.uuid4())
        holding = Holding.unanswered(request_id)
        try:
            answer = self.attach(
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
                    self._release(holding, 0)
                except HostdevError as error:
                    holding.note_on(failure, error)
            raise
        try:
            yield holding.assignment
        except BaseException as failure:
            try:
                self._release(holding, wait_s)
            except HostdevError as error:
                holding.note_on(failure, error)
            raise
        self._release(holding, wait_s)

    def _release(self, holding: Holding, wait_s: float) -> None:
        name = holding.assignment.name
        holding.check_detached(self.detach(assignment=name, scope=holding.scope, wait_s=wait_s))

    # --- records and holders

    def list_assignments(
        self,
        *,
        vm: str = "",
        device: str = "",
        states: Iterable[assignment_pb2.AssignmentState.ValueType] = (),
        page_size: int = 0,
    ) -> Listing[assignment_pb2.Assignment]:
        """Assignments, those closed within 30 days included."""
        request = self._requests.list_assignments(vm, device, states, page_size)
        return self._list(self.service.ListAssignments, request, lambda page: page.assignments)

    def get_assignment(self, name: str) -> assignment_pb2.Assignment:
        """One assignment, by its name: the attach's request id."""
        return self._call(self.service.GetAssignment, self._requests.get_assignment(name)).assignment

    def forget_assignment(self, name: str) -> assignment_pb2.Assignment:
        """Remove the record of an assignment that holds nothing any more; the record as it was."""
        return self._call(self.service.ForgetAssignment, self._requests.forget_assignment(name)).assignment

    def list_holders(
        self, *, devices: Iterable[str] = (), vms: Iterable[str] = (), page_size: int = 0
    ) -> Listing[holder_pb2.Holder]:
        """Which VMs, running or not, hold which devices."""
        request = self._requests.list_holders(devices, vms, page_size)
        return self._list(self.service.ListHolders, request, lambda page: page.holders)

    # --- watches

    def watch_holders(
        self,
        *,
        devices: Iterable[str] = (),
        vms: Iterable[str] = (),
        resume_token: str = "",
        changes_only: bool = False,
        patience: Patience | None = None,
    ) -> Generator[service_pb2.WatchHoldersResponse, None, None]:
        """Follow who holds what, for as long as the caller iterates; `close` it to end it earlier.

        Starts at `resume_token`, of an earlier message or list, else with a snapshot, else (`changes_only`) from now.
        Goes on by itself when the connection is lost or falls silent, see `hostdev.watch`. On a `reset` forget
        everything: a snapshot follows. Such a reset also comes from here, with revision 0, when an interruption
        leaves no token to resume at.

        Raises:
            HostdevApiError: the first stream could not be opened, or the server refuses for good.
        """
        patience = patience or Patience()
        request = self._requests.watch_holders(devices, vms, patience.bookmark_interval_s)
        progress = Progress("WatchHolders", resume_token, changes_only, patience, lambda: self._closed)
        return follow(self.service.WatchHolders, request, service_pb2.WatchHoldersResponse, progress)

    def watch_devices(
        self,
        device_filter: device_pb2.DeviceFilter | None = None,
        *,
        resume_token: str = "",
        changes_only: bool = False,
        patience: Patience | None = None,
    ) -> Generator[service_pb2.WatchDevicesResponse, None, None]:
        """Follow the devices; everything else as in `watch_holders`."""
        patience = patience or Patience()
        request = self._requests.watch_devices(device_filter, patience.bookmark_interval_s)
        progress = Progress("WatchDevices", resume_token, changes_only, patience, lambda: self._closed)
        return follow(self.service.WatchDevices, request, service_pb2.WatchDevicesResponse, progress)

    # --- virtual functions and mediated devices

    def set_virtual_functions(self, device: str, count: int, *, timeout_s: float | None = None) -> device_pb2.Device:
        """Set how many virtual functions a physical one has; the physical function.

        The device's driver may take minutes: `timeout_s` is in place of the client's. After it
        (`OPERATION_IN_PROGRESS`) the work goes on, and the same call waits again.
        """
        request = self._requests.set_virtual_functions(device, count)
        return self._call(self.admin.SetVirtualFunctions, request, timeout_s).device

    def create_mediated_device(  # noqa: PLR0913  the fields of the request
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
        return self._call(self.admin.CreateMediatedDevice, request, timeout_s).device

    def delete_mediated_device(self, device: str) -> None:
        """Remove a mediated device."""
        self._call(self.admin.DeleteMediatedDevice, self._requests.delete_mediated_device(device))

    def _call(
        self,
        method: grpc.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        timeout_s: float | None = None,
    ) -> Response:
        """Make a call; without a deadline of its own it has the client's."""
        try:
            return method(request, timeout=self.timeout_s if timeout_s is None else timeout_s)
        except grpc.RpcError as error:
            raise HostdevApiError.from_rpc_error(error, method_of(request)) from error
        except ValueError as error:
            if self._closed:
                raise client_closed(method_of(request)) from error
            raise

    def _list(
        self,
        method: grpc.UnaryUnaryMultiCallable[ListRequest, AnyPage],
        request: ListRequest,
        items: Callable[[AnyPage], Iterable[Item]],
    ) -> Listing[Item]:
        return Listing(lambda token: self._call(method, page_of(request, token)), items)
