"""libvirt's refusals with its numbers (`virErrorNumber`) and 9.0.0's texts."""

from __future__ import annotations

from enum import IntEnum, unique

from hostdevd.core.ports import HypervisorBusy, HypervisorError, HypervisorGone, NoSuchObject


@unique
class ErrorNumber(IntEnum):
    """The numbers of `virErrorNumber` that the simulation uses."""

    INTERNAL_ERROR = 1
    NO_SUPPORT = 3
    INVALID_ARG = 8
    OPERATION_FAILED = 9
    XML_ERROR = 27
    SYSTEM_ERROR = 38
    NO_DOMAIN = 42
    NO_NETWORK = 43
    NO_NODE_DEVICE = 53
    OPERATION_INVALID = 55
    OPERATION_TIMEOUT = 68
    DEVICE_MISSING = 99


_PREFIX = {
    ErrorNumber.INTERNAL_ERROR: "internal error: ",
    ErrorNumber.NO_SUPPORT: "this function is not supported by the connection driver: ",
    ErrorNumber.INVALID_ARG: "invalid argument: ",
    ErrorNumber.OPERATION_FAILED: "operation failed: ",
    ErrorNumber.XML_ERROR: "XML error: ",
    ErrorNumber.NO_DOMAIN: "Domain not found: ",
    ErrorNumber.NO_NETWORK: "Network not found: ",
    ErrorNumber.NO_NODE_DEVICE: "Node device not found: ",
    ErrorNumber.OPERATION_INVALID: "Requested operation is not valid: ",
    ErrorNumber.OPERATION_TIMEOUT: "Timed out during operation: ",
    ErrorNumber.DEVICE_MISSING: "device not found: ",
}
"""What libvirt puts before the text of each number; nothing before a system error."""

_NO_SUCH = frozenset(
    {ErrorNumber.NO_DOMAIN, ErrorNumber.NO_NETWORK, ErrorNumber.NO_NODE_DEVICE, ErrorNumber.DEVICE_MISSING}
)


def refusal(number: ErrorNumber, text: str) -> HypervisorError:
    """The error that the libvirt port would raise for this number and text."""
    return raised(number, _PREFIX.get(number, "") + text)


def raised(number: int, text: str, *, gone: bool = False) -> HypervisorError:
    """The port's exception for a number with the whole text, as an injected fault gives it."""
    if gone:
        return HypervisorGone(text)
    if number in _NO_SUCH:
        return NoSuchObject(number, text)
    if number == ErrorNumber.OPERATION_TIMEOUT:
        return HypervisorBusy(number, text)
    return HypervisorError(number, text)


def no_domain(uuid: str) -> HypervisorError:
    """There is no such domain."""
    return refusal(ErrorNumber.NO_DOMAIN, f"no domain with matching uuid '{uuid}'")


def no_network(name: str) -> HypervisorError:
    """There is no such network."""
    return refusal(ErrorNumber.NO_NETWORK, f"no network with matching name '{name}'")


def no_node_device(name: str) -> HypervisorError:
    """There is no such node device."""
    return refusal(ErrorNumber.NO_NODE_DEVICE, f"no node device with matching name '{name}'")


def no_alias(alias: str) -> HypervisorError:
    """The definition has no device of this alias."""
    return refusal(ErrorNumber.DEVICE_MISSING, f"no device found with alias {alias}")


def invalid(text: str) -> HypervisorError:
    """The operation does not fit the state."""
    return refusal(ErrorNumber.OPERATION_INVALID, text)


def device_in_use(kind: str, device: str, domain: str) -> HypervisorError:
    """A running domain has the device."""
    return invalid(f"{kind} {device} is in use by driver QEMU, domain {domain}")


def qemu_refused(text: str) -> HypervisorError:
    """QEMU's answer to `device_add`, passed on by libvirt."""
    return refusal(ErrorNumber.INTERNAL_ERROR, f"unable to execute QEMU command 'device_add': {text}")
