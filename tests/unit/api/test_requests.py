"""What requests and options say is checked, and what is wrong is named."""

from __future__ import annotations

import pytest

from hostdevd.api.requests import check_host
from hostdevd.api.tokens import read_token
from hostdevd.config import ConfigError, load
from hostdevd.core.errors import HostdevError
from hostdevd.core.model import HypervisorInfo

HOST = HypervisorInfo("kvm1", "0a1b2c3d-0000-4000-8000-00000000abcd", "", "", "", "")


def test_the_host_is_guarded_by_name_or_uuid_in_any_case() -> None:
    for given in ("", HOST.name, HOST.uuid, HOST.uuid.upper()):
        check_host(given, HOST)
    with pytest.raises(HostdevError) as refusal:
        check_host("kvm2", HOST)
    assert refusal.value.reason == "HOST_NOT_FOUND"


def test_which_host_this_is_is_not_known_before_libvirt_told() -> None:
    check_host("", None)
    with pytest.raises(HostdevError) as refusal:
        check_host("kvm1", None)
    assert refusal.value.reason == "LIBVIRT_DISCONNECTED"
    assert refusal.value.retry_after_s is not None


def test_a_resume_token_of_any_length_is_a_bad_token() -> None:
    with pytest.raises(HostdevError) as refusal:
        read_token("r1." + "0" * 1000)
    assert refusal.value.reason == "INVALID_RESUME_TOKEN"


@pytest.mark.parametrize("text", ["", ","])
def test_nowhere_to_listen_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="HOSTDEVD_LISTEN"):
        load({}, {"HOSTDEVD_LISTEN": text}, None)
