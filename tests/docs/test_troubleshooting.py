"""docs/troubleshooting.md has an entry for each thing that hostdevd can say, and for nothing else."""

from __future__ import annotations

import re

import pytest
from google.protobuf.descriptor import EnumDescriptor
from pages import ROOT, Page

from hostdev.v1 import device_pb2, error_pb2, host_pb2, service_pb2

PAGE = Page(ROOT / "docs" / "troubleshooting.md")


def values(enum: EnumDescriptor, prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name, value in enum.values_by_name.items() if value.number]


def entries() -> dict[str, str]:
    """By the heading of the third level: the text below it."""
    found: dict[str, list[str]] = {}
    heading = ""
    for _, line in PAGE.prose():
        if line.startswith("#"):
            heading = line.removeprefix("### ") if line.startswith("### ") else ""
        elif heading:
            found.setdefault(heading, []).append(line)
    return {heading: " ".join(lines).strip() for heading, lines in found.items()}


@pytest.mark.parametrize(
    ("enum", "prefix", "heading"),
    [
        (error_pb2.ErrorReason.DESCRIPTOR, "ERROR_REASON_", r"()([A-Z_]+)"),
        (device_pb2.ConditionCode.DESCRIPTOR, "CONDITION_CODE_", r"(Condition )([A-Z_]+)"),
        (service_pb2.ResetReason.DESCRIPTOR, "RESET_REASON_", r"(Reset )([A-Z_]+)"),
        (host_pb2.HostCheckCode.DESCRIPTOR, "HOST_CHECK_CODE_", r"(Check )([A-Z_]+)"),
    ],
)
def test_every_value_has_one_entry_and_no_other_is_there(enum: EnumDescriptor, prefix: str, heading: str) -> None:
    told = [match[2] for entry in entries() if (match := re.fullmatch(heading, entry))]
    assert sorted(told) == sorted(values(enum, prefix))


def test_every_heading_is_one_of_those() -> None:
    assert [entry for entry in entries() if not re.fullmatch(r"((Condition|Reset|Check) )?[A-Z_]+", entry)] == []


def test_an_entry_says_more_than_its_name() -> None:
    assert [heading for heading, text in entries().items() if len(text.split()) < 8] == []


def test_every_use_that_the_host_makes_has_a_row() -> None:
    told = [kind for _, line in PAGE.prose() for kind in re.findall(r'<a id="use-[a-z_]+"></a>`([A-Z_]+)`', line)]
    assert sorted(told) == sorted(values(device_pb2.HostUseKind.DESCRIPTOR, "HOST_USE_KIND_"))
