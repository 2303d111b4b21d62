"""What libvirt does not let the service do: by function, as it was met, with the right of polkit that is missing."""

from __future__ import annotations

import threading

import libvirt

from hostdevd.virt.rights import RIGHTS

_DENIED = frozenset(
    {
        libvirt.VIR_ERR_ACCESS_DENIED,
        libvirt.VIR_ERR_AUTH_FAILED,
        libvirt.VIR_ERR_AUTH_CANCELLED,
        libvirt.VIR_ERR_AUTH_UNAVAILABLE,
    }
)


class Denials:
    """The functions that libvirt refused when they were last called. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._texts: dict[str, str] = {}

    def note(self, function: str, error: libvirt.libvirtError | None) -> None:
        """A call has ended, with this error or well; another failure than a refusal says nothing about rights."""
        if error is None:
            if function in self._texts:
                with self._lock:
                    self._texts.pop(function, None)
        elif error.get_error_code() in _DENIED:
            rights = " or ".join(RIGHTS.get(function, ()))
            missing = f" (needs {rights})" if rights else ""
            with self._lock:
                self._texts[function] = f"{function}{missing}: {error.get_error_message()}"

    def read(self) -> tuple[str, ...]:
        """A sentence for each."""
        with self._lock:
            return tuple(self._texts[function] for function in sorted(self._texts))
