"""An interface is in use when the host is reached by it, or something else is by way of it."""

from __future__ import annotations

import pytest

from hostdevd.core.model import HostUse, HostUseKind
from hostdevd.host.findings import Findings
from hostdevd.host.interfaces import interface_names
from hostdevd.host.net_uses import find_net_uses
from hostdevd.host.rtnetlink import InterfaceAddress
from hostdevd.host.sysfs import Unreadable
from unit.host.builder import HostBuilder

KIND = HostUseKind
NETWORK, MASK = "000200C0", "00FFFFFF"  # 192.0.2.0/24


def test_an_idle_interface_has_no_use(host: HostBuilder) -> None:
    assert host.uses_of(host.nic("eth0")) == ()


def test_an_address_and_the_default_route(host: HostBuilder) -> None:
    eth0 = host.nic("eth0")
    host.address4("eth0", "192.0.2.2", NETWORK, MASK)
    host.default4("eth0")
    assert host.uses_of(eth0) == (HostUse(KIND.GLOBAL_ADDRESS, "192.0.2.2"), HostUse(KIND.DEFAULT_ROUTE, "IPv4"))


def test_loopback_and_link_local_addresses_are_no_use(host: HostBuilder) -> None:
    eth0 = host.nic("eth0")
    host.address4("lo", "127.0.0.1", "0000007F", "000000FF")
    host.address4("eth0", "169.254.3.4", "0000FEA9", "0000FFFF")
    host.append("/proc/1/net/if_inet6", "fe8000000000000000fc00fffe000001 04 40 20 80     eth0\n")
    host.append("/proc/1/net/if_inet6", "00000000000000000000000000000001 01 80 10 80       lo\n")
    assert host.uses_of(eth0) == ()


def test_ipv6_address_and_default_route(host: HostBuilder) -> None:
    eth0 = host.nic("eth0")
    zero = "0" * 32
    host.append("/proc/1/net/if_inet6", "fd000000000000000000000000000002 04 40 00 82     eth0\n")
    host.append(
        "/proc/1/net/ipv6_route",
        f"{zero} 00 {zero} 00 fd000000000000000000000000000001 00000400 00000002 00000000 00000003     eth0\n"
        f"{zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n",
    )
    assert host.uses_of(eth0) == (HostUse(KIND.GLOBAL_ADDRESS, "fd00::2"), HostUse(KIND.DEFAULT_ROUTE, "IPv6"))


def test_a_kernel_without_ipv6_is_no_gap(host: HostBuilder) -> None:
    host.at("/proc/1/net/if_inet6").unlink()
    host.at("/proc/1/net/ipv6_route").unlink()
    assert host.uses().unknown == ()


def test_a_bridge_on_a_bond_uses_the_bonds_members(host: HostBuilder) -> None:
    members = [host.nic("eth0"), host.nic("eth1", "0000:00:04.0")]
    bond0 = host.virtual_nic("bond0", "eth0", "eth1")
    host.directory(f"{bond0}/bonding")
    br0 = host.virtual_nic("br0", "bond0")
    host.directory(f"{br0}/bridge")
    host.enslave("bond0", "br0")
    for name in ("eth0", "eth1"):
        host.enslave(name, "bond0")
    host.address4("br0", "192.0.2.2", NETWORK, MASK)
    for member in members:
        assert host.uses_of(member) == (
            HostUse(KIND.BRIDGE_PORT, "br0"),
            HostUse(KIND.BOND_MEMBER, "bond0"),
            HostUse(KIND.GLOBAL_ADDRESS, "192.0.2.2 on br0"),
        )
    assert host.uses_of(br0) == (HostUse(KIND.GLOBAL_ADDRESS, "192.0.2.2"),)


def test_an_address_on_a_vlan_uses_the_interface_below(host: HostBuilder) -> None:
    eth0 = host.nic("eth0")
    host.virtual_nic("eth0.5", "eth0")
    host.address4("eth0.5", "192.0.2.2", NETWORK, MASK)
    assert host.uses_of(eth0) == (HostUse(KIND.GLOBAL_ADDRESS, "192.0.2.2 on eth0.5"),)


def test_a_vlan_in_a_bridge_uses_the_interface_below(host: HostBuilder) -> None:
    eth0 = host.nic("eth0")
    host.virtual_nic("eth0.5", "eth0")
    host.directory(f"{host.virtual_nic('br0')}/bridge")
    host.enslave("eth0.5", "br0")
    assert host.uses_of(eth0) == (HostUse(KIND.BRIDGE_PORT, "br0"),)


@pytest.mark.parametrize(
    ("master", "mark", "use"),
    [
        ("br0", "bridge", HostUse(KIND.BRIDGE_PORT, "br0")),
        ("bond0", "bonding", HostUse(KIND.BOND_MEMBER, "bond0")),
        ("ovs-system", None, HostUse(KIND.OVS_PORT, "ovs-system")),
        ("team0", None, HostUse(KIND.TEAM_MEMBER, "team0")),
    ],
)
def test_a_member_is_in_use_by_its_master(host: HostBuilder, master: str, mark: str | None, use: HostUse) -> None:
    eth0 = host.nic("eth0")
    path = host.virtual_nic(master)
    if mark:
        host.directory(f"{path}/{mark}")
    host.enslave("eth0", master)
    assert host.uses_of(eth0) == (use,)


def test_a_macvtap_of_a_guest_uses_the_interface_below(host: HostBuilder) -> None:
    eth0 = host.nic("eth0")
    host.directory(f"{host.virtual_nic('macvtap0', 'eth0')}/macvtap")
    assert host.uses_of(eth0) == (HostUse(KIND.BRIDGE_PORT, "macvtap0"),)


HIDDEN = HostUse(KIND.GLOBAL_ADDRESS, "(a VLAN, macvlan or ipvlan on it is in another network namespace)")


def card(host: HostBuilder, driver: str, name: str = "eth0", slot: str = "0000:00:03.0") -> str:
    """An interface of a PCI function with a driver."""
    path = host.nic(name, slot)
    host.link(f"{path}/device", host.function(slot, driver))
    return path


@pytest.mark.parametrize(("driver", "count", "uses"), [
    ("e1000e", 1, ()), ("e1000e", 2, (HIDDEN,)),
    ("i40e", 2, ()), ("i40e", 3, (HIDDEN,)),  # its rx mode counts, too
    ("somebodys-own", 2, ()),
])  # fmt: skip
def test_a_driver_may_count_as_well(host: HostBuilder, driver: str, count: int, uses: tuple[HostUse, ...]) -> None:
    eth0 = card(host, driver)
    host.asked4("eth0", count)
    assert host.uses_of(eth0) == uses


def test_a_card_that_receives_for_itself_alone_has_no_use(host: HostBuilder) -> None:
    eth0 = host.nic("eth0")
    host.append("/proc/1/net/dev_mcast", "3    eth0            7     0     333300000001\n")
    host.asked4("eth0", 1)
    assert host.uses_of(eth0) == ()


def test_what_stands_on_a_card_in_a_container_is_a_use(host: HostBuilder) -> None:
    eth0, eth1 = host.nic("eth0"), host.nic("enp4s0f1np1v10", "0000:00:04.0")
    host.asked4("eth0", 1)
    host.asked4("enp4s0f1np1v10", 2)
    assert host.uses_of(eth0) == ()
    assert host.uses_of(eth1) == (HIDDEN,)


@pytest.mark.parametrize(("flags", "uses"), [("0x1003", ()), ("0x1002", (HIDDEN,))])
def test_what_stands_on_a_card_here_asks_while_it_is_up(
    host: HostBuilder, flags: str, uses: tuple[HostUse, ...]
) -> None:
    eth0 = host.nic("eth0")
    host.write(f"{host.virtual_nic('eth0.5', 'eth0')}/flags", f"{flags}\n")
    host.asked4("eth0", 2)
    host.asked4("eth0.5", 2)  # it counts its own asking, too
    assert host.uses_of(eth0) == uses


def test_a_group_that_shares_the_ethernet_address_is_no_container(host: HostBuilder) -> None:
    eth0 = host.nic("eth0")
    host.asked4("eth0", 2)
    host.join4("eth0", "0A0000EF")  # 239.0.0.10 does not
    assert host.uses_of(eth0) == (HIDDEN,)
    host.join4("eth0", "010080EF")  # 239.128.0.1 does
    assert host.uses_of(eth0) == ()


def test_who_stands_on_what_a_container_stands_on_is_used_too(host: HostBuilder) -> None:
    eth0 = host.nic("eth0")
    host.write(f"{host.virtual_nic('eth0.5', 'eth0')}/flags", "0x1003\n")
    host.asked4("eth0", 2)
    host.asked4("eth0.5", 3)
    assert host.uses_of(eth0) == (HostUse(KIND.GLOBAL_ADDRESS, f"{HIDDEN.detail} on eth0.5"),)


def test_a_member_of_a_bond_receives_for_the_bond(host: HostBuilder) -> None:
    eth0 = host.nic("eth0")
    host.directory(f"{host.virtual_nic('bond0', 'eth0')}/bonding")
    host.enslave("eth0", "bond0")
    host.asked4("eth0", 3)
    assert host.uses_of(eth0) == (HostUse(KIND.BOND_MEMBER, "bond0"),)


def test_a_pppoe_session_uses_its_interface(host: HostBuilder) -> None:
    eth0 = host.nic("eth0")
    host.write("/proc/1/net/pppoe", "Id       Address              Device\n0000002A 52:54:00:00:00:01 eth0\n")
    assert [use.kind for use in host.uses_of(eth0)] == [KIND.GLOBAL_ADDRESS]


def test_the_file_beside_the_interfaces_is_no_interface(host: HostBuilder) -> None:
    host.write("/sys/class/net/bonding_masters", "bond0\n")
    assert host.uses().unknown == ()


# --- what cannot be told -----------------------------------------------------------------------------


def test_an_address_that_no_network_explains_makes_net_unknown(host: HostBuilder) -> None:
    host.nic("eth0")
    host.append("/proc/1/net/fib_trie", "     |-- 198.51.100.7\n        /32 host LOCAL\n")
    assert [kind for kind, _ in host.uses().unknown] == ["net"]
    assert "198.51.100.7" in host.uses().unknown[0][1]


def test_netlink_explains_it_where_it_speaks_of_the_host(host: HostBuilder) -> None:
    eth0 = host.nic("eth0")
    host.append("/proc/1/net/fib_trie", "     |-- 198.51.100.7\n        /32 host LOCAL\n")
    findings = Findings()
    find_net_uses(host.tree, findings, lambda: [InterfaceAddress("eth0", "198.51.100.7")])
    result = findings.result()
    assert result.unknown == ()
    assert result.by_path[eth0] == (HostUse(KIND.GLOBAL_ADDRESS, "198.51.100.7"),)


def test_an_interface_that_process_1_lacks_makes_net_unknown(host: HostBuilder) -> None:
    host.nic("eth0")
    host.write("/proc/1/net/dev", "Inter-|\n face |\n")
    assert "eth0" in host.uses().unknown[0][1]


def test_an_address_on_an_interface_that_sysfs_lacks_makes_net_unknown(host: HostBuilder) -> None:
    host.address4("eth7", "192.0.2.2", NETWORK, MASK)
    assert [kind for kind, _ in host.uses().unknown] == ["net"]


@pytest.mark.parametrize("name", ["dev", "route", "fib_trie", "ipv6_route", "if_inet6", "dev_mcast", "igmp"])
def test_an_unreadable_file_makes_net_unknown(host: HostBuilder, name: str) -> None:
    host.unreadable(f"/proc/1/net/{name}")
    assert {kind for kind, _ in host.uses().unknown} == {"net"}


def test_the_interfaces_of_process_1_are_told(host: HostBuilder) -> None:
    host.nic("eth0")
    assert interface_names(host.tree) == {"eth0"}
    host.unreadable("/proc/1/net/dev")
    with pytest.raises(Unreadable):
        interface_names(host.tree)
