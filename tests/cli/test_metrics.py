"""What the service tells Prometheus: true, well formed, documented, and what the dashboard and the alerts ask for."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from cli import monitored
from cli.monitored import Scrape
from hostdevd.ops.instruments import Instruments
from hostdevd.ops.metrics import READINGS

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
DASHBOARD, ALERTS = MONITORING / "hostdevd.dashboard.json", MONITORING / "alerts.yaml"
SERVICE = "hostdev.v1.HostDeviceService"


@pytest.fixture(scope="module")
def scrape() -> Scrape:
    with monitored.simulated() as (address, port):
        return monitored.load(address, port)


@pytest.fixture(scope="module")
def promtool() -> str:
    return subprocess.run([ROOT / "deploy" / "promtool"], check=True, capture_output=True, text=True).stdout.strip()


# --- the numbers -----------------------------------------------------------------------------------------


def test_calls_are_counted_by_method_and_code(scrape: Scrape) -> None:
    def calls(method: str, code: str) -> float:
        return scrape.value("hostdevd_grpc_calls_total", method=method, code=code)

    assert calls(f"{SERVICE}/ListDevices", "OK") == 3
    assert calls(f"{SERVICE}/GetDevice", "NOT_FOUND") == 1
    assert calls(f"{SERVICE}/Attach", "OK") == 4
    assert calls(f"{SERVICE}/Attach", "FAILED_PRECONDITION") == 1
    assert calls("unknown", "UNIMPLEMENTED") == 2
    assert "made.Up" not in scrape.text
    assert scrape.value("hostdevd_grpc_call_seconds_count", method=f"{SERVICE}/ListDevices") == 3
    assert scrape.value("hostdevd_grpc_calls_in_flight", method=f"{SERVICE}/WatchHolders") == 1
    assert scrape.value("hostdevd_grpc_calls_in_flight", method=f"{SERVICE}/Attach") == 0
    assert scrape.value("hostdevd_grpc_refusals_total", method=f"{SERVICE}/Attach", reason="HELD_BY_OTHER_VM") == 1
    assert scrape.value("hostdevd_grpc_refusals_total", reason="DETACH_REJECTED_BY_GUEST") == 1


def test_operations_are_counted_by_outcome_and_timed_by_phase(scrape: Scrape) -> None:
    def operations(operation: str, outcome: str, reason: str = "") -> float:
        return scrape.value("hostdevd_operations_total", operation=operation, outcome=outcome, reason=reason)

    assert operations("attach", "ATTACHED") == 3
    assert operations("detach", "DETACHED") == 1
    assert operations("detach", "ATTACHED", "DETACH_REJECTED_BY_GUEST") == 1
    assert scrape.value("hostdevd_operation_seconds_sum", operation="attach") >= 3  # each waits a second for its guest
    # Four functions in three operations.
    for phase, count in (("HOST_DETACH", 4), ("ATTACH_CONFIG", 4), ("ATTACH_LIVE", 4), ("SETTLE", 3), ("VERIFY", 3)):
        assert scrape.value("hostdevd_phase_seconds_count", operation="attach", phase=phase) == count
    for phase, count in (("GUEST_RELEASE", 2), ("DETACH_CONFIG", 1), ("HOST_REATTACH", 1)):
        assert scrape.value("hostdevd_phase_seconds_count", operation="detach", phase=phase) == count
    assert 0 < scrape.value("hostdevd_oldest_operation_age_seconds") < 60  # that of the deaf guest
    assert scrape.value("hostdevd_assignments", state="DETACHING") == 1
    assert scrape.value("hostdevd_assignment_conditions", code="DETACH_REJECTED", state="ATTACHED") == 1


def test_what_there_is_is_told(scrape: Scrape) -> None:
    assert scrape.value("hostdevd_devices") == 132  # the interfaces of three functions went with their drivers
    assert scrape.value("hostdevd_devices", type="pci", state="taken") >= 3
    assert scrape.value("hostdevd_ineligible_devices", type="pci", reason="HOST_IN_USE") == 7
    assert scrape.value("hostdevd_groups") > scrape.value("hostdevd_groups", state="eligible") > 0
    assert scrape.value("hostdevd_ineligible_groups", reason="HOST_IN_USE") == 7
    assert scrape.value("hostdevd_holders", owner="hostdevd", via="HOSTDEV") == 3
    assert scrape.value("hostdevd_holders", owner="other", via="HOSTDEV") == 1
    assert scrape.value("hostdevd_domains") == 7
    assert scrape.value("hostdevd_watchers") == 2
    assert scrape.value("hostdevd_watch_resets_total", watch="holders", reason="NEW_EPOCH") == 1


def test_how_the_service_is_is_told(scrape: Scrape) -> None:
    assert scrape.value("hostdevd_libvirt_connected") == 1
    assert scrape.value("hostdevd_libvirt_connects_total") == 1
    assert scrape.value("hostdevd_libvirt_disconnects_total") == 0
    assert scrape.value("hostdevd_sync_age_seconds") < 60
    calls = scrape.value("hostdevd_libvirt_calls_total", call="nodedev_detach")
    assert calls == scrape.value("hostdevd_libvirt_call_seconds_count", call="nodedev_detach") == 4
    assert scrape.value("hostdevd_queue_depth", queue="history_devices") > 0
    assert scrape.value("hostdevd_event_loop_delay_seconds_count") > 1
    assert scrape.value("hostdevd_state_store_fault") == 0
    assert scrape.value("hostdevd_state_store_bytes") > 10_000
    assert scrape.value("process_resident_memory_bytes") > 10_000_000
    assert scrape.value("hostdevd_build_info") == 1


def test_promtool_finds_nothing_to_say(scrape: Scrape, promtool: str) -> None:
    done = subprocess.run(
        [promtool, "check", "metrics"], input=scrape.text, check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


# --- what asks for them ----------------------------------------------------------------------------------


def catalogue() -> dict[str, tuple[str, tuple[str, ...], str]]:
    """Every metric of ours: its type, labels and meaning."""
    found: dict[str, tuple[str, tuple[str, ...], str]] = {}
    for one in vars(Instruments()).values():
        if isinstance(one, MetricWrapperBase):
            suffix = "_total" if one._type == "counter" else ""
            found[f"{one._name}{suffix}"] = (str(one._type), tuple(one._labelnames), one._documentation)
    for reading in READINGS:
        suffix = "_total" if reading.kind == "counter" else ""
        found[f"hostdevd_{reading.name}{suffix}"] = (reading.kind, reading.labels, reading.help)
    return found


def expressions() -> Iterator[tuple[str, str]]:
    """Where, and what; the dashboard's own variables have values."""
    dashboard: Any = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*")
            yield f"panel {panel['title']}", expression
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            yield f"alert {rule['alert']}", rule["expr"]


_SELECTOR = re.compile(r"\b((?:hostdevd|process)_[a-z_]+|up)\b(?:\{([^}]*)\})?")
_GROUPING = re.compile(r"\b(?:by|without) \(([^)]*)\)")
_TARGET_LABELS = {"instance", "job", "le"}


def test_everything_that_is_asked_for_is_there(scrape: Scrape) -> None:
    known = catalogue()
    served = {line.split()[2] for line in scrape.text.splitlines() if line.startswith("# TYPE ")}
    assert known.keys() <= served
    wrong, asked = [], set[str]()
    for where, expression in expressions():
        labels = set[str]()
        selectors = _SELECTOR.findall(expression)
        assert selectors, where
        for name, matchers in selectors:
            family = next((name[: -len(end)] for end in _PARTS if name.endswith(end) and name not in known), name)
            if family != "up" and family not in served:
                wrong.append(f"{where}: {name} is not served")
                continue
            asked.add(family)
            has = {*known.get(family, ("", (), ""))[1], *_TARGET_LABELS}
            labels |= has
            wrong += [f"{where}: {name} has no {one}" for one in re.findall(r"(\w+) ?[=!]", matchers) if one not in has]
        for grouping in _GROUPING.findall(expression):
            wrong += [f"{where}: nothing has {one}" for one in grouping.split(", ") if one not in labels]
    assert not wrong, "\n".join(wrong)
    unseen = known.keys() - asked - {"hostdevd_revision"}
    assert not unseen, f"neither the dashboard nor an alert shows {unseen}"


_PARTS = ("_bucket", "_sum", "_count")


def test_promtool_takes_every_expression(promtool: str) -> None:
    rules = [{"record": f"r{number}", "expr": one} for number, (_, one) in enumerate(expressions())]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}, file)
        file.flush()
        done = subprocess.run(
            [promtool, "check", "rules", "--lint=none", file.name], check=False, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout


def test_the_alerts_fire_for_what_they_are_for(promtool: str) -> None:
    for command in (["check", "rules", str(ALERTS)], ["test", "rules", str(MONITORING / "alerts_test.yaml")]):
        done = subprocess.run([promtool, *command], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    tested = (MONITORING / "alerts_test.yaml").read_text()
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    assert rules
    for rule in rules:
        assert f'alertname="{rule["alert"]}"' in tested, f"no test has {rule['alert']} fire"


def test_every_alert_has_its_section_in_the_operations_guide() -> None:
    guide = (ROOT / "docs" / "operations.md").read_text()
    sections = {line.lstrip("#").strip() for line in guide.splitlines() if line.startswith("#")}
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["alert"] in sections
            assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
    named = {section for section in sections if re.fullmatch(r"Hostdevd[A-Z]\w+", section)}
    assert named == {rule["alert"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]}


def test_the_page_has_every_metric_as_it_is() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text().splitlines()
    rows = [line for line in page if line.startswith("| `hostdevd_")]
    wanted = [
        f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {meaning} |".replace("|  |", "| |")
        for name, (kind, labels, meaning) in catalogue().items()
    ]
    assert sorted(rows) == sorted(wanted), "\n".join(wanted)
