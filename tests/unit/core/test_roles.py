"""The roles file: what is refused and how, and who fits a rule."""

from __future__ import annotations

import tomllib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostdevd.api.filters import TYPES
from hostdevd.core.caller import LOOPBACK, UNKNOWN, Caller, Proof
from hostdevd.core.model import DEVICE_TYPES, Vm, VmState
from hostdevd.core.rights import Permission, Rights, Role
from hostdevd.core.roles import MOST_RULES, Names, Roles, RolesError, parse_roles

UUID = "4DEA22B3-1d52-d8f3-2516-782e98ab3fa0"
NAMES = Names({"alice": 1001}.__getitem__, {"kvm": 107}.__getitem__)
NOBODY = Caller(Proof.PEER, uid=65534, gids=(65534,))


def roles(text: str) -> Roles:
    return parse_roles(tomllib.loads(text), NAMES)


def refusal(text: str) -> str:
    with pytest.raises(RolesError) as error:
        roles(text)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    return message


def is_let_in(caller: Caller, *identities: str) -> bool:
    document = {"rule": [{"name": "one", "role": "admin", "identities": list(identities)}]}
    return bool(parse_roles(document, NAMES).rights(caller).grants)


def vm(name: str, uuid: str = "00000000-0000-4000-8000-000000000000") -> Vm:
    return Vm(name, uuid, VmState.RUNNING)


# --- parsing -------------------------------------------------------------------------------------------


def test_a_rule_says_who_what_and_on_what() -> None:
    text = f"""
        [[rule]]
        name = "storage team"
        comment = "ask them"
        role = "operator"
        identities = ["group:kvm", "user:alice", "loopback"]
        vms = ["db-*", "{UUID}"]

        [[rule.devices]]
        class = "01"

        [[rule.devices]]
        type = "scsi"
    """
    (rule,) = roles(text).rules
    assert (rule.name, rule.comment, rule.grant.role) == ("storage team", "ask them", Role.OPERATOR)
    who = rule.identities
    assert (who.uids, who.gids, who.loopback) == (frozenset({1001}), frozenset({107}), True)
    assert rule.grant.vms is not None
    assert rule.grant.vms.fit(vm("db-7"))
    assert rule.grant.vms.fit(vm("other", UUID.lower()))
    assert not rule.grant.vms.fit(vm("adb-7"))
    assert not rule.grant.vms.fit(vm(UUID.lower()))  # a name that looks like somebody else's UUID
    assert rule.grant.devices is not None
    assert len(rule.grant.devices) == 2


def test_an_empty_file_lets_nobody_in() -> None:
    assert roles("").rights(LOOPBACK) == Rights()


def test_an_error_names_the_rule_and_the_key() -> None:
    named = '[[rule]]\nname = "x"\n'
    begun = f'{named}role = "viewer"\n'
    whole = f'{begun}identities = "loopback"\n'
    assert "[[rule]]" in refusal('[[allow]]\nname = "x"')
    assert "rule: must be a list" in refusal("rule = 1")
    assert "rule 2: must be a table" in refusal('rule = [{name="a", role="viewer", identities="loopback"}, 1]')
    assert "rule 1: name: is missing" in refusal('[[rule]]\nrole = "viewer"')
    assert 'rule "x": role: must be one of viewer, operator, admin' in refusal(f'{named}identities = "loopback"')
    assert 'rule "x": role: ' in refusal(f'{named}role = "root"')
    assert 'rule "x": role: ' in refusal(f"{named}role = []")
    assert 'rule "x": identities: is missing' in refusal(begun)
    assert 'rule "x": identities: an empty list' in refusal(f"{begun}identities = []")
    assert "rule \"x\": identities: 'user:bob' is not known on this host" in refusal(f'{begun}identities = "user:bob"')
    assert "rule \"x\": identities: 'uid:alice'" in refusal(f'{begun}identities = "uid:alice"')
    assert 'rule "x": vms: an empty list' in refusal(f"{whole}vms = []")
    assert 'rule "x": vms: ' in refusal(f"{whole}vms = ['']")
    assert 'rule "x": devices: an empty list' in refusal(f"{whole}devices = []")
    assert 'rule "x": devices: must be tables' in refusal(f"{whole}devices = ['pci']")
    assert "rule \"x\": devices: unknown key 'clas'" in refusal(f"{whole}devices = [{{clas = '03'}}]")
    assert 'rule "x": devices: class: ' in refusal(f"{whole}devices = [{{class = 'display'}}]")
    assert 'rule "x": devices: has no matcher' in refusal(f"{whole}devices = [{{}}]")
    assert "rule \"x\": unknown key 'vm'" in refusal(f"{whole}vm = 'a'")
    assert 'rule "x": name: another rule has it' in refusal(whole + whole)
    assert 'rule "x": comment: ' in refusal(f'{whole}comment = "{"c" * 501}"')
    many = "".join(f'[[rule]]\nname = "{n}"\nrole = "viewer"\nidentities = "loopback"\n' for n in range(MOST_RULES + 1))
    assert f"more than {MOST_RULES}" in refusal(many)


@pytest.mark.parametrize(
    "identity",
    [
        *("", "*", "alice", "uid:", "uid:-1", "uid:1.5", "gid:kvm", "DNS:", "DNS:*", "DNS:a*b", "DNS: a", "URI:*"),
        *("spiffe://example.org*", "spiffe://*", "URI:https://a*", "loopback:1", "Loopback"),
    ],
)
def test_what_names_nobody_is_refused(identity: str) -> None:
    message = refusal(f'[[rule]]\nname = "x"\nrole = "viewer"\nidentities = ["{identity}"]')
    assert 'rule "x": identities: ' in message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_TABLES = st.dictionaries(
    st.sampled_from(["name", "comment", "role", "identities", "vms", "devices", "x"]),
    json_values | st.sampled_from(["viewer", "loopback", "a*", "uid:0"]),
)


@given(st.dictionaries(st.sampled_from(["rule", "x"]), json_values | st.lists(_TABLES, max_size=3)))
def test_nothing_but_its_own_error_is_raised(document: dict[str, object]) -> None:
    with suppress(RolesError):
        parse_roles(document, NAMES)


def test_all_types_of_devices_may_be_selected() -> None:
    assert DEVICE_TYPES == TYPES


# --- who ---------------------------------------------------------------------------------------------------


def test_a_peer_is_known_by_his_uid_and_groups_and_by_nothing_else() -> None:
    alice = Caller(Proof.PEER, uid=1001, gids=(1001, 107))
    assert all(is_let_in(alice, one) for one in ("uid:1001", "user:alice", "gid:107", "group:kvm", "gid:1001"))
    assert not is_let_in(alice, "loopback", "uid:107", "gid:0", "DNS:alice", "read-only")
    assert not is_let_in(NOBODY, "uid:1001", "group:kvm")
    assert not is_let_in(Caller(Proof.PEER), "uid:0", "gid:0")  # the kernel did not tell


def test_who_has_a_certificate_is_known_by_its_names() -> None:
    holder = Caller(Proof.CERTIFICATE, sans=("DNS:Host.Example.org", "URI:spiffe://Example.org/ops/alice"))
    for one in ("DNS:host.example.ORG", "DNS:host.*", "spiffe://example.org/ops/alice", "spiffe://example.org/ops/*"):
        assert is_let_in(holder, one), one
    for one in ("DNS:host", "spiffe://example.org/ops", "spiffe://example.org/OPS/*", "loopback", "URI:a:*"):
        assert not is_let_in(holder, one), one
    impostor = Caller(Proof.CERTIFICATE, sans=("URI:spiffe://example.org.evil.example/ops/alice",))
    assert not is_let_in(impostor, "spiffe://example.org/*")
    # What a connection does not prove is nothing, whatever else stands there.
    assert not is_let_in(Caller(Proof.CERTIFICATE, uid=0, gids=(0,)), "uid:0", "gid:0", "loopback")


def test_loopback_is_an_identity_and_nobody_is_none() -> None:
    assert is_let_in(LOOPBACK, "loopback")
    assert not is_let_in(LOOPBACK, "uid:0", "read-only")
    assert not is_let_in(UNKNOWN, "loopback", "read-only", "uid:0", "DNS:none")


def test_by_a_read_only_socket_nobody_is_more_than_a_viewer() -> None:
    text = '[[rule]]\nname = "a"\nrole = "admin"\nidentities = ["uid:0"]\nvms = "a"\n'
    looking = roles(text).rights(Caller(Proof.PEER, uid=0, read_only=True))
    assert [grant.role for grant in looking.grants] == [Role.VIEWER]
    assert looking.view == roles(text).rights(Caller(Proof.PEER, uid=0)).view
    assert not roles(text).rights(Caller(Proof.PEER, uid=7, read_only=True)).grants
    assert is_let_in(Caller(Proof.PEER, uid=7, read_only=True), "read-only")


def test_who_fits_several_rules_has_all_of_their_rights() -> None:
    text = """
        [[rule]]
        name = "all see all"
        role = "viewer"
        identities = "gid:107"
        [[rule]]
        name = "alice has the network cards"
        role = "operator"
        identities = "user:alice"
        vms = "web?"
        devices = {class = "02"}
    """
    alice = roles(text).rights(Caller(Proof.PEER, uid=1001, gids=(107,)))
    nic = {**dict.fromkeys(("type", "id", "address", "uid", "driver"), ""), "class": "020000"}
    assert alice.sees_everything
    assert alice.covers(Permission.ASSIGNMENTS_ATTACH, vm("web1"), nic)
    assert not alice.covers(Permission.ASSIGNMENTS_ATTACH, vm("web10"), nic)
    assert not alice.covers(Permission.ASSIGNMENTS_ATTACH, vm("web1"), {**nic, "class": "030000"})
    assert not roles(text).rights(Caller(Proof.PEER, uid=1001)).sees_everything


def test_only_star_and_question_mark_are_special_in_the_names_of_machines() -> None:
    text = '[[rule]]\nname = "a"\nrole = "viewer"\nidentities = "loopback"\nvms = ["a[bc]*", "d[e]"]\n'
    seen = roles(text).rights(LOOPBACK)
    assert seen.sees_vm(vm("a[bc]d"))
    assert not seen.sees_vm(vm("abd"))
    assert seen.sees_vm(vm("d[e]"))
    assert not seen.sees_vm(vm("de"))
