"""What an alert counts is exported from the start: Prometheus sees no increase in a counter that appears with 50."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from hostdev.v1 import service_pb2
from hostdevd.api.methods import METHODS
from hostdevd.config import Config
from hostdevd.core.assignments import AssignmentState
from hostdevd.core.observing import Result
from hostdevd.ops import telemetry
from hostdevd.ops.instruments import Instruments
from unit.ops.conftest import served

ROOT = Path(__file__).parents[2]
METHODS_SERVED = [name.removeprefix("/") for name in METHODS]
BURST = 50
ANY: Any = None
"""An assignment: no label tells of it."""

Series = dict[str, float]


def counters(registry: CollectorRegistry) -> Series:
    """The counters' samples, as Prometheus writes their series."""
    families: list[Metric] = list(registry.collect())
    return {
        f"{sample.name}{{{', '.join(f'{key}={value!r}' for key, value in sorted(sample.labels.items()))}}}".replace(
            "'", '"'
        ): sample.value
        for family in families
        if family.type == "counter"
        for sample in family.samples
        if sample.name.endswith("_total")
    }


def test_what_is_there_from_the_start_is_bounded() -> None:
    found = counters(Instruments(METHODS_SERVED).registry)
    assert set(found.values()) == {0.0}
    assert len(found) <= 25 + 8 + 3 * len(METHODS)


async def test_a_failed_attach_is_counted_in_a_series_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = list[Instruments]()

    def instruments(methods: Iterable[str]) -> Instruments:
        made.append(Instruments(methods))
        return made[0]

    monkeypatch.setattr(telemetry, "_instruments", instruments)
    async with served(tmp_path, Config(metrics=f"unix:{tmp_path}/m.sock")) as s:
        before = counters(made[0].registry)
        s.sim.controls.fail_next("attach", text="no more slots")
        with pytest.raises(grpc.aio.AioRpcError):
            await s.stub.Attach(service_pb2.AttachRequest(vm="alpha", device=s.sim.roles["nic_single"]))
        after = counters(made[0].registry)
    failed = 'hostdevd_operations_total{operation="attach", outcome="FAILED", reason="ATTACH_FAILED"}'
    assert (before[failed], after[failed]) == (0, 1)
    for method in METHODS_SERVED:
        for code in ("INTERNAL", "UNKNOWN"):
            assert before[f'hostdevd_grpc_calls_total{{code="{code}", method="{method}"}}'] == 0


def test_alerts_fire_for_a_burst_between_two_scrapes(tmp_path: Path) -> None:
    """The rules over the series as they are exported: at the start, and after 50 of each between two scrapes."""
    promtool = subprocess.run([ROOT / "deploy/promtool"], check=True, capture_output=True, text=True).stdout.strip()
    instruments = Instruments(METHODS_SERVED)
    before = counters(instruments.registry)
    for _ in range(BURST):
        with instruments.operation("attach", ANY, Result(AssignmentState.FAILED, "ATTACH_FAILED")):
            pass
        with instruments.rpc("hostdev.v1.HostDeviceService/Attach", {}, Result("INTERNAL"), unary=True):
            pass
        instruments.reset("holders", "NEW_EPOCH")
    after = counters(instruments.registry)
    values = {
        name: f"{before[name]:g}x5 {now:g}x40" if name in before else f"_x5 {now:g}x40" for name, now in after.items()
    }
    told = {
        "HostdevdAttachFailing": "firing",
        "HostdevdErrorRate": "pending",  # it goes by what lasts for 10 minutes
        "HostdevdWatchResets": "firing",
    }
    test = {
        "rule_files": [str(ROOT / "deploy/monitoring/alerts.yaml")],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": said} for name, said in values.items()],
                "promql_expr_test": [
                    {
                        "expr": "count by (alertname, alertstate) (ALERTS)",
                        "eval_time": "10m",
                        "exp_samples": [
                            {"labels": f'{{alertname="{name}", alertstate="{state}"}}', "value": 1}
                            for name, state in told.items()
                        ],
                    }
                ],
            }
        ],
    }
    file = tmp_path / "burst.yaml"
    file.write_text(yaml.safe_dump(test))
    done = subprocess.run([promtool, "test", "rules", file], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
