"""The Python client: every vector through both of its kinds, the examples in its docstrings, and the orchestrator."""

from __future__ import annotations

import asyncio
import doctest
import importlib
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import grpc
import pytest
import suite
from google.protobuf.json_format import MessageToDict
from grpc_caller import TIMEOUT_S, caller, error_json, request_of

from clients.simulated import ROOT, Simulated
from hostdev import HostdevApiError, HostdevClient
from hostdev.aio import AsyncHostdevClient
from hostdev.v1 import assignment_pb2

EXAMPLE = ROOT / "clients" / "python" / "examples" / "orchestrator.py"


@pytest.mark.parametrize("name", suite.names())
def test_the_client_gets_the_answers_of_the_vector(simulated_server: Simulated, name: str) -> None:
    with HostdevClient(simulated_server.unix) as client:
        assert list(suite.replay(suite.load(name), caller(client))) == []


@pytest.mark.parametrize("name", ["attach", "not-found", "watch-holders"])
def test_the_asynchronous_client_gets_them_too(simulated_server: Simulated, name: str) -> None:
    with asyncio.Runner() as runner:
        client = runner.run(_connected(simulated_server.tcp))
        call: suite.Caller = lambda *step: runner.run(_awaited(client, *step))  # noqa: E731
        try:
            assert list(suite.replay(suite.load(name), call)) == []
        finally:
            runner.run(client.close())


async def _connected(address: str) -> AsyncHostdevClient:
    return AsyncHostdevClient(address)


async def _awaited(client: AsyncHostdevClient, name: str, request: Mapping[str, Any], messages: int) -> dict[str, Any]:
    method = name.partition(".")[2]
    try:
        call = getattr(client.service, method)(request_of(method, request), timeout=TIMEOUT_S)
        if not messages:
            return {"response": MessageToDict(await call)}
        received = [MessageToDict(await call.read()) for _ in range(messages)]
        call.cancel()
    except grpc.RpcError as error:
        return {"error": error_json(HostdevApiError.from_rpc_error(error))}
    return {"messages": received}


@pytest.mark.parametrize("module", ["hostdev.client", "hostdev.aio", "hostdev.errors"])
def test_the_examples_in_its_docstrings_hold(
    simulated_server: Simulated, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setenv("HOSTDEV_ADDRESS", simulated_server.unix)
    ran = doctest.testmod(importlib.import_module(module), verbose=False)
    assert (ran.failed, ran.attempted > 0) == (0, True)


def test_the_orchestrator_follows_a_device_there_and_back(simulated_server: Simulated) -> None:
    # Twice: the second time the history holds the first.
    for _ in range(2):
        ended = subprocess.run(
            [sys.executable, str(EXAMPLE), simulated_server.tcp],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (ended.stderr, ended.stdout.splitlines()) == (
            "",
            [
                "device pci_0000_01_00_0 (Ethernet controller)",
                "affected 1: net_eth1_52_54_00_1a_b0_01 CHILD",
                "plan: HOST_DETACH pci_0000_01_00_0; ATTACH_LIVE pci_0000_01_00_0; VERIFY pci_0000_01_00_0",
                "attached: pci_0000_01_00_0 VISIBLE vfio-pci<-e1000e",
                "seen: UPSERT pci_0000_01_00_0 live",
                "detached: DETACHED",
                "gone: REMOVE pci_0000_01_00_0",
            ],
        )


def test_hostdevctl_joins_its_own_attach_and_no_other(simulated_server: Simulated) -> None:
    def attach(*more: str) -> subprocess.CompletedProcess[str]:
        line = ("attach", "alpha", "pci_0000_01_00_0", "--request-id", "99999999-2222-4333-8444-555555555555", *more)
        command = [sys.executable, "-m", "hostdev.cli", "--address", simulated_server.unix, *line]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    with HostdevClient(simulated_server.unix) as client:
        assert [attach().returncode, attach().returncode] == [0, 0]
        assert len(list(client.list_assignments(vm="alpha"))) == 1
        for other in (("--scope", "live"), ("--group-policy", "single-only"), ("--expect", "")):
            refused = attach(*other)
            assert (refused.returncode, refused.stderr.split()[1]) == (1, "REQUEST_ID_REUSED:"), refused.stderr
        client.detach(vm="alpha", device="pci_0000_01_00_0")
        ended = attach()
    assert (ended.returncode, "alpha does not have it any more" in ended.stderr) == (1, True), ended.stderr


def test_hostdevctl_joins_an_attach_that_extended_an_assignment(simulated_server: Simulated) -> None:
    def attach(request_id: str) -> subprocess.CompletedProcess[str]:
        line = ("attach", "alpha", "pci_0000_01_00_0", "--scope", "config", "--request-id", request_id)
        command = [sys.executable, "-m", "hostdev.cli", "--address", simulated_server.unix, *line]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    with HostdevClient(simulated_server.unix) as client:
        client.attach("alpha", "pci_0000_01_00_0", scope=assignment_pb2.SCOPE_LIVE)
        for _ in range(2):
            done = attach("99999999-2222-4333-8444-555555555555")
            assert (done.returncode, done.stderr) == (0, "")
        other = attach("99999999-2222-4333-8444-666666666666")
    assert (other.returncode, other.stderr.split()[1]) == (1, "ALREADY_ATTACHED:")
