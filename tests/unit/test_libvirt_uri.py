"""Which libvirt URIs are worth waiting for."""

from __future__ import annotations

import pytest

from hostdevd.virt.uri import check_uri, is_remote


@pytest.mark.parametrize(
    "uri",
    [
        "qemu:///system",
        "qemu:///session",
        "qemu+unix:///system?socket=/run/libvirt/libvirt-sock",
        "qemu+ssh://root@host.example/system",
        "qemu+tls://[2001:db8::1]:16514/system",
        "qemu+tcp://host.example/system",
        "test:///default",
        "test+unix:///default",
        "test:///srv/host.xml",
    ],
)
def test_known_forms(uri: str) -> None:
    check_uri(uri)


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("", "not of the form"),
        ("system", "not of the form"),
        ("qemu:/system", "not of the form"),
        ("xen:///system", "neither qemu nor test"),
        ("qemu+pigeon://host/system", "transport"),
        ("qemu+ssh:///system", "needs a host"),
        ("qemu+unix://host/system", "other than unix"),
        ("qemu:///", "path"),
        ("qemu:///sytem", "path"),
        ("test:///", "path"),
        ("qemu:///system#x", "fragment"),
        ("qemu:///system ", "white space"),
        ("qemu://[::1/system", "Invalid IPv6"),
        ("qemu+tcp://host:port/system", "port"),
    ],
)
def test_nonsense_is_refused_with_its_reason(uri: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_uri(uri)


@pytest.mark.parametrize(
    ("uri", "remote"),
    [
        ("qemu:///system", False),
        ("qemu+unix:///system?socket=/run/libvirt/libvirt-sock", False),
        ("test:///default", False),
        ("qemu+ssh://root@host.example/system", True),
        ("qemu://host.example/system", True),
    ],
)
def test_another_machine_is_told_from_this_one(uri: str, *, remote: bool) -> None:
    assert is_remote(uri) is remote
