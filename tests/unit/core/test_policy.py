"""The policy file's rules: what is refused and how, and which devices a rule fits."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostdevd.core.addresses import PciAddress
from hostdevd.core.matching import Values
from hostdevd.core.model import NodeDevice, PciFacts
from hostdevd.core.policy import MOST_RULES, Policy, PolicyError, Rule, parse_policy
from hostdevd.core.selectors import traits
from unit.core.made import lun, mdev, pci, usb

NIC = pci("05:01.0")


def rule(**matchers: object) -> Rule:
    return parse_policy({"allow": [{"name": "one", **matchers}]}).allow[0]


def fits(device: NodeDevice, **matchers: object) -> bool:
    """Whether a rule fits a device with the uid `u-1` and the driver `e1000e`."""
    return rule(**matchers).fits(traits(device, "u-1", "e1000e"))


def refusal(text: str) -> str:
    with pytest.raises(PolicyError) as error:
        parse_policy(tomllib.loads(text))
    message = str(error.value)
    assert len(message.splitlines()) == 1
    return message


# --- parsing -------------------------------------------------------------------------------------------


def test_a_file_has_allow_and_deny_rules_with_name_comment_and_matchers() -> None:
    policy = parse_policy(
        tomllib.loads(
            """
            [[deny]]
            name = "management"
            comment = "how the host is reached"
            id = ["8086:1533", "8086:1521"]
            address = "0000:05:*"

            [[allow]]
            name = "serial"
            class = "0x0700"
            """
        )
    )
    assert policy == Policy(
        allow=(Rule("serial", (("class", Values.of(["0700*"])),)),),
        deny=(
            Rule(
                "management",
                (("id", Values.of(["8086:1533", "8086:1521"])), ("address", Values.of(["0000:05:*"]))),
                "how the host is reached",
            ),
        ),
    )
    assert parse_policy({}) == Policy()


def test_an_error_names_the_rule_and_the_key() -> None:
    named = '[[deny]]\nname = "lan"\n'
    assert 'deny rule "lan": unknown key' in refusal(f'{named}adress = "0000:05:01.0"')
    assert 'deny rule "lan": id: ' in refusal(f'{named}id = "8086"')
    assert 'deny rule "lan": class: ' in refusal(f'{named}class = "network"')
    assert 'deny rule "lan": type: ' in refusal(f'{named}type = "usb"')
    assert 'deny rule "lan": address: ' in refusal(f'{named}address = ["0000:05:01.0", "05:01.0"]')
    assert 'deny rule "lan": uid: ' in refusal(f"{named}uid = 7")
    assert 'deny rule "lan": driver: ' in refusal(f'{named}driver = ["e1000e", 1]')
    assert 'deny rule "lan": driver: ' in refusal(f"{named}driver = []")
    assert 'deny rule "lan": driver: ' in refusal(f'{named}driver = ""')
    assert 'deny rule "lan": uid: ' in refusal(f'{named}uid = "dev-*"')
    assert 'deny rule "lan": has no matcher' in refusal(named)
    assert 'deny rule "lan": comment: ' in refusal(f'{named}driver = "x"\ncomment = 1')
    assert 'deny rule "lan": comment: ' in refusal(f'{named}driver = "x"\ncomment = "{"x" * 501}"')


def test_a_rule_without_a_good_name_is_named_by_its_place() -> None:
    first = '[[allow]]\nname = "one"\nclass = "07"\n'
    assert "allow rule 2: name: is missing" in refusal(f'{first}[[allow]]\nclass = "07"')
    assert "allow rule 2: name: is missing" in refusal(f'{first}[[allow]]\nname = " "\nclass = "07"')
    assert "allow rule 2: name: " in refusal(f'{first}[[allow]]\nname = 2\nclass = "07"')
    assert "allow rule 2: name: " in refusal(f'{first}[[allow]]\nname = "\\u001b[31m"\nclass = "07"')
    assert "allow rule 2: name: " in refusal(f'{first}[[allow]]\nname = "{"x" * 101}"\nclass = "07"')


def test_a_name_is_given_once_in_the_whole_file() -> None:
    text = '[[{}]]\nname = "one"\nclass = "07"\n'
    assert 'allow rule "one": name: ' in refusal(text.format("allow") * 2)
    assert 'deny rule "one": name: ' in refusal(text.format("allow") + text.format("deny"))


def test_what_is_neither_allow_nor_deny_is_refused() -> None:
    assert "unknown key 'permit'" in refusal('[[permit]]\nname = "one"')
    assert "unknown key 'name'" in refusal('name = "one"')
    assert "allow: must be a list" in refusal('[allow]\nname = "one"')
    assert "deny: must be a list" in refusal('deny = "all"')
    assert "deny rule 1: must be a table" in refusal('deny = ["all"]')


def test_rules_are_bounded() -> None:
    def rules(count: int) -> list[dict[str, str]]:
        return [{"name": f"rule {number}", "class": "07"} for number in range(count)]

    assert len(parse_policy({"deny": rules(MOST_RULES)}).deny) == MOST_RULES
    with pytest.raises(PolicyError, match="more than"):
        parse_policy({"allow": [{"name": "one", "class": "07"}], "deny": rules(MOST_RULES)})


def test_line_breaks_of_a_comment_become_spaces() -> None:
    assert rule(driver="x", comment="two\n  lines").comment == "two lines"


@pytest.mark.parametrize(
    "address",
    [
        "",
        "*",
        "0000:*",
        "0000:05:01.8",
        "0000:05:20.0",
        "0000:05:20.*",
        "05:01.0",
        "0000:05:*.0",
        "0000:05:01.0 ",
        "1:*",
        "1:2:3",
        "2:0:0:*",
        "2:0:0:0:0",
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(PolicyError, match="address"):
        rule(address=address)


TOML = st.recursive(
    st.text() | st.integers() | st.floats() | st.booleans() | st.just(datetime(2026, 1, 1, tzinfo=UTC)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
KEYS = ("name", "comment", "type", "class", "id", "address", "uid", "driver")
RULES = st.lists(st.dictionaries(st.sampled_from(KEYS) | st.text(), TOML, max_size=4), max_size=3)


@given(st.dictionaries(st.sampled_from(["allow", "deny"]) | st.text(), RULES | TOML, max_size=3))
def test_any_document_is_a_policy_or_a_policy_error_in_one_line(document: Mapping[str, object]) -> None:
    try:
        parse_policy(document)
    except PolicyError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017  one of two good outcomes


@given(st.sampled_from(KEYS[2:]), st.text())
def test_any_value_of_a_matcher_is_taken_or_refused(key: str, value: str) -> None:
    try:
        found = rule(**{key: value})
    except PolicyError:
        return
    for device in (NIC, usb("stick", 5), lun("lun"), mdev("mdev", NIC.name)):
        found.fits(traits(device, "u-1", None))


# --- matching ------------------------------------------------------------------------------------------


def test_values_are_alternatives_and_matchers_must_all_fit() -> None:
    assert fits(NIC, id=["10de:*", "8086:10d3"])
    assert fits(NIC, id="8086:10d3", driver="e1000e")
    assert not fits(NIC, id="8086:10d3", driver="igb")


def test_a_type_is_the_apis() -> None:
    devices = {"pci": NIC, "usb_device": usb("stick", 5), "scsi": lun("lun"), "mdev": mdev("mdev", NIC.name)}
    for kind in devices:
        assert [one for one, device in devices.items() if fits(device, type=kind)] == [kind]


def test_a_class_is_a_beginning_of_six_digits() -> None:
    assert fits(NIC, **{"class": "02"})
    assert fits(NIC, **{"class": "0x020000"})
    assert not fits(NIC, **{"class": "0201"})
    assert not fits(pci("05:01.0", class_code=None), **{"class": "02"})
    assert not fits(usb("stick", 5), **{"class": "0"})


def test_an_id_is_of_pci_functions_and_usb_devices() -> None:
    assert fits(NIC, id="8086:10D3")
    assert fits(NIC, id="8086:*")
    assert not fits(NIC, id="8087:*")
    assert fits(usb("stick", 5), id="1234:0001")
    assert not fits(lun("lun"), id="1234:*")


def test_an_address_is_exact_or_a_slot_or_a_bus_of_pci() -> None:
    assert fits(NIC, address="0000:05:01.0")
    assert fits(NIC, address="00000000:05:01.0")
    assert fits(NIC, address="0000:05:01.*")
    assert fits(NIC, address="0000:05:*")
    assert not fits(NIC, address=["0000:05:01.1", "0000:05:02.*", "0000:06:*", "0001:05:*"])
    assert isinstance(NIC.facts, PciFacts)
    far = replace(NIC, facts=replace(NIC.facts, address=PciAddress(0x10000, 0x5E, 0x1F, 7)))
    assert fits(far, address="10000:5E:1f.*")
    assert not fits(far, address="0000:5e:*")


def test_an_address_of_usb_is_bus_and_device_and_of_scsi_four_numbers() -> None:
    assert fits(usb("stick", 5), address="1:5")
    assert fits(usb("stick", 5), address="001:005")
    assert not fits(usb("stick", 5), address=["2:5", "1:50"])
    assert fits(lun("lun", 3), address="2:0:0:3")
    assert not fits(lun("lun", 3), address="2:0:0:30")
    assert not fits(mdev("mdev", NIC.name), address=["0000:05:*", "1:5", "2:0:0:3"])


def test_uid_and_driver_are_exact() -> None:
    assert fits(NIC, uid="u-1")
    assert not fits(NIC, uid=["u-10", "U-1"])
    assert fits(NIC, driver="e1000e")
    assert not fits(NIC, driver="e1000")


def test_without_a_driver_no_rule_on_drivers_fits() -> None:
    assert not rule(driver=["e1000e", "None"]).fits(traits(NIC, "u-1", None))
