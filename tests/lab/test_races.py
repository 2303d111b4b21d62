"""Eight clients in the lab, two VMs, one group: one client wins, the others are told which VM has it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
from api import ATTACHED, DETACHED, EVENTUALLY_S, LONG_S, Api, Refused
from hosts import LabHost

from hostdev.v1 import assignment_pb2

CLIENTS = 8
ROUNDS = 3
LIVE = assignment_pb2.SCOPE_LIVE


def test_of_eight_clients_one_wins_the_group_and_the_others_learn_who(lab: LabHost) -> None:
    names = [lab.roles["dual_0"], lab.roles["dual_1"]]
    drivers = {name: lab.api.driver(name) for name in names}
    for number in range(ROUNDS):
        start = threading.Barrier(CLIENTS)

        def client(index: int, start: threading.Barrier = start) -> assignment_pb2.Assignment | Refused:
            # A connection each, as from eight machines.
            with grpc.insecure_channel(lab.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
                api = Api(channel)
                start.wait(EVENTUALLY_S)
                try:
                    return api.attach(("alpha", "legacy")[index % 2], names[index % 2], scope=LIVE)
                except grpc.RpcError as error:
                    return Refused(error)

        with ThreadPoolExecutor(CLIENTS) as clients:
            results = list(clients.map(client, range(CLIENTS), timeout=2 * LONG_S))
        won = [result for result in results if isinstance(result, assignment_pb2.Assignment)]
        lost = [result for result in results if isinstance(result, Refused)]
        assert [one.state for one in won] == [ATTACHED], (number, [str(one) for one in lost])
        for refused in lost:
            # Its own VM's second client comes too late for what that has already.
            expected = {"OPERATION_IN_PROGRESS", "HELD_BY_OTHER_VM", "ALREADY_ATTACHED"}
            assert refused.reason in expected, (number, refused.reason, str(refused))
            assert refused.info.metadata["vm_name"] == won[0].vm.name, (number, refused.reason)
            assert refused.info.metadata["vm_uuid"] == won[0].vm.uuid, (number, refused.reason)
        done = lab.api.detach(assignment=won[0].name)
        assert (done.state, list(done.conditions)) == (DETACHED, [])
        assert {name: lab.api.driver(name) for name in names} == drivers
