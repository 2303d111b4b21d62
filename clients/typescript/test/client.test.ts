import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, createRouterTransport, type HandlerContext, type ServiceImpl } from "@connectrpc/connect";
import assert from "node:assert/strict";
import { test } from "node:test";
import { HostdevClient, HostdevError } from "../src/index.js";
import { AssignmentState } from "../src/gen/hostdev/v1/assignment_pb.js";
import {
  AttachResponseSchema,
  DetachResponseSchema,
  HostDeviceService,
  type AttachRequest,
  type DetachRequest,
} from "../src/gen/hostdev/v1/service_pb.js";

/** A client of a server that is in this process and does as the test says. */
function clientOf(methods: Partial<ServiceImpl<typeof HostDeviceService>>, host = ""): HostdevClient {
  const transport = createRouterTransport(({ service }) => service(HostDeviceService, methods));
  return new HostdevClient(undefined, { transport, host });
}

/** An answer that never comes; the server gives up with its client. */
const never = (_: unknown, { signal }: HandlerContext) =>
  new Promise<never>((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
const unavailable = () => new ConnectError("away", Code.Unavailable);

test("a read is tried again while nobody answers", async () => {
  let calls = 0;
  const client = clientOf(
    {
      getDevice: ({ device, host }) => {
        calls += 1;
        if (calls < 3) throw unavailable();
        return { device: { name: device, host } };
      },
    },
    "guard",
  );
  const device = await client.getDevice("pci_0000_01_00_0");
  assert.deepEqual([device.name, device.host, calls], ["pci_0000_01_00_0", "guard", 3]);
});

test("a read is given up after four attempts, and at once when its time is over or it is refused", async () => {
  for (const [code, timeoutMs, wanted] of [
    [Code.Unavailable, 30_000, 4],
    [Code.Unavailable, 50, 1],
    [Code.NotFound, 30_000, 1],
  ] as const) {
    let calls = 0;
    const client = clientOf({
      getHost: () => {
        calls += 1;
        throw new ConnectError("no", code);
      },
    });
    await assert.rejects(client.getHost({ timeoutMs }), HostdevError);
    assert.equal(calls, wanted);
  }
});

test("a call that the end of its connection closed was not cancelled by its caller", async () => {
  let calls = 0;
  const client = clientOf({
    getHost: () => {
      calls += 1;
      throw new ConnectError("http/2 stream closed with error code CANCEL (0x8)", Code.Canceled);
    },
  });
  await assert.rejects(client.getHost(), { code: "UNAVAILABLE" });
  assert.equal(calls, 4);
});

test("what changes something is called once", async () => {
  let calls = 0;
  const refuse = () => {
    calls += 1;
    throw unavailable();
  };
  const client = clientOf({ attach: refuse, detach: refuse, forgetAssignment: refuse });
  await assert.rejects(client.attach("alpha", "nic"), { code: "UNAVAILABLE", method: "Attach" });
  await assert.rejects(client.detach({ vm: "alpha", device: "nic" }), { code: "UNAVAILABLE", method: "Detach" });
  await assert.rejects(client.forgetAssignment("a"), { code: "UNAVAILABLE", method: "ForgetAssignment" });
  assert.equal(calls, 3);
});

test("a list goes over pages that are empty, and each page is asked for as the first was", async () => {
  const pages: Record<string, { names: string[]; next: string }> = {
    "": { names: ["a", "b"], next: "p1" },
    p1: { names: [], next: "p2" },
    p2: { names: ["c"], next: "" },
  };
  const asked: unknown[] = [];
  const client = clientOf({
    listDevices: ({ pageToken, pageSize, filter }) => {
      asked.push([pageToken, pageSize, filter?.types]);
      const page = pages[pageToken];
      return {
        devices: page?.names.map((name) => ({ name })) ?? [],
        nextPageToken: page?.next ?? "",
        revision: 7n,
        resumeToken: "r7",
      };
    },
  });
  const listing = await client.listDevices({ types: ["pci"] }, { pageSize: 2 });
  assert.deepEqual([listing.revision, listing.resumeToken, asked.length], [7n, "r7", 1]);
  assert.deepEqual(
    (await listing.toArray()).map(({ name }) => name),
    ["a", "b", "c"],
  );
  assert.deepEqual(asked, [
    ["", 2, ["pci"]],
    ["p1", 2, ["pci"]],
    ["p2", 2, ["pci"]],
  ]);
});

test("an attach is repeated with its request id until it is through", async () => {
  const requests: AttachRequest[] = [];
  const states = [AssignmentState.ATTACHING, AssignmentState.ROLLING_BACK, AssignmentState.ATTACHED];
  const client = clientOf({
    attach: (request) =>
      create(AttachResponseSchema, {
        assignment: { name: request.requestId, state: states[requests.push(request) - 1]! },
      }),
  });
  const { assignment } = await client.attach("alpha", "nic", { expectedAffected: [] });
  assert.equal(assignment?.state, AssignmentState.ATTACHED);
  assert.equal(requests.length, 3);
  assert.match(requests[0]?.requestId ?? "", /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
  assert.equal(new Set(requests.map(({ requestId }) => requestId)).size, 1);
  assert.deepEqual(requests[0]?.expectedAffected?.uids, []);
});

test("a detach by VM and device is repeated by its assignment", async () => {
  const requests: DetachRequest[] = [];
  const client = clientOf({
    detach: (request) => {
      const state = requests.push(request) < 2 ? AssignmentState.DETACHING : AssignmentState.DETACHED;
      return create(DetachResponseSchema, { assignment: { name: "a1", state } });
    },
  });
  await client.detach({ vm: "alpha", device: "nic" });
  assert.deepEqual(
    requests.map(({ vm, device, assignment }) => [vm, device, assignment]),
    [
      ["alpha", "nic", ""],
      ["", "", "a1"],
    ],
  );
});

test("without a wait, and on a dry run, it is one call", async () => {
  const waits: unknown[] = [];
  const client = clientOf({
    detach: ({ wait, validateOnly }) => {
      waits.push([wait?.seconds, wait?.nanos, validateOnly]);
      return validateOnly ? {} : { assignment: { name: "a1", state: AssignmentState.DETACHING } };
    },
  });
  assert.equal((await client.detach({ assignment: "a1" }, { waitMs: 0 })).assignment?.state, AssignmentState.DETACHING);
  await client.detach({ assignment: "a1" }, { validateOnly: true, waitMs: 1500 });
  assert.deepEqual(waits, [
    [0n, 0, false],
    [1n, 500_000_000, true],
  ]);
});

test("an abort ends a call and a wait", async () => {
  const controller = new AbortController();
  const client = clientOf({
    getHost: never,
    detach: () => {
      setImmediate(() => controller.abort());
      return { assignment: { name: "a1", state: AssignmentState.DETACHING } };
    },
  });
  await assert.rejects(client.detach({ assignment: "a1" }, { signal: controller.signal }), { code: "CANCELLED" });
  await assert.rejects(client.getHost({ signal: controller.signal }), { code: "CANCELLED" });
});

test("a deadline ends a call that is not answered", async () => {
  const client = clientOf({ getHost: never });
  await assert.rejects(client.getHost({ timeoutMs: 20 }), { code: "DEADLINE_EXCEEDED", unreachable: true });
});
