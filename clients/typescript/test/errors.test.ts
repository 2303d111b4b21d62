import { create } from "@bufbuild/protobuf";
import { durationFromMs, StringValueSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, type ConnectError as Failure } from "@connectrpc/connect";
import assert from "node:assert/strict";
import { test } from "node:test";
import { HostdevError } from "../src/errors.js";
import {
  BadRequestSchema,
  ErrorInfoSchema,
  PreconditionFailureSchema,
  RetryInfoSchema,
} from "../src/gen/google/rpc/error_details_pb.js";
import { ErrorReason, ReasonSchema } from "../src/gen/hostdev/v1/error_pb.js";

const info = (domain = "hostdevd") => ({
  desc: ErrorInfoSchema,
  value: { reason: "HELD_BY_OTHER_VM", domain, metadata: { vm_name: "keeper" } },
});
const violation = (type: string) => ({
  desc: PreconditionFailureSchema,
  value: { violations: [{ type, subject: "keeper", description: "keeper has it" }] },
});
const failed = (...details: NonNullable<ConstructorParameters<typeof ConnectError>[3]>): Failure =>
  new ConnectError("keeper has it", Code.FailedPrecondition, undefined, details);

test("an error carries reason, metadata and reasons with their remedies", () => {
  const reason = {
    desc: ReasonSchema,
    value: { code: ErrorReason.HELD_BY_OTHER_VM, subject: "keeper", message: "keeper has it", remedy: "detach it" },
  };
  const error = HostdevError.from(failed(info(), violation("HELD_BY_OTHER_VM"), reason), "Attach");
  assert.deepEqual([error.code, error.reason, error.method], ["FAILED_PRECONDITION", "HELD_BY_OTHER_VM", "Attach"]);
  assert.deepEqual(error.metadata, { vm_name: "keeper" });
  assert.deepEqual(error.reasons, [
    { code: "HELD_BY_OTHER_VM", subject: "keeper", message: "keeper has it", remedy: "detach it" },
  ]);
  assert.equal(error.message, "HELD_BY_OTHER_VM: keeper has it");
});

test("a gateway that drops the reasons leaves what the preconditions say", () => {
  assert.deepEqual(HostdevError.from(failed(info(), violation("NOT_LEAF"), violation("NEWER_THAN_THIS"))).reasons, [
    { code: "NOT_LEAF", subject: "keeper", message: "keeper has it", remedy: "" },
    { code: "", subject: "keeper", message: "keeper has it", remedy: "" },
  ]);
});

test("a reason that this client does not know is unspecified", () => {
  const reason = { desc: ReasonSchema, value: create(ReasonSchema, { code: 9999 as ErrorReason, message: "new" }) };
  assert.deepEqual(HostdevError.from(failed(reason)).reasons, [{ code: "", subject: "", message: "new", remedy: "" }]);
});

test("another service's reason is not one of hostdevd's", () => {
  const error = HostdevError.from(failed(info("proxy.example")));
  assert.deepEqual([error.reason, error.metadata, error.message], ["", {}, "FAILED_PRECONDITION: keeper has it"]);
});

test("the wait that the server asks for is in milliseconds, absent when it asks for none", () => {
  const asked = failed({ desc: RetryInfoSchema, value: { retryDelay: durationFromMs(2500) } });
  assert.deepEqual(
    [HostdevError.from(asked).retryAfterMs, HostdevError.from(failed()).retryAfterMs],
    [2500, undefined],
  );
});

test("wrong fields are named", () => {
  const wrong = {
    desc: BadRequestSchema,
    value: { fieldViolations: [{ field: "filter.ids[0]", description: "not hex" }] },
  };
  assert.deepEqual(HostdevError.from(failed(wrong)).fieldViolations, [
    { field: "filter.ids[0]", description: "not hex" },
  ]);
});

test("details that cannot be read are left out", () => {
  const error = failed({ desc: StringValueSchema, value: { value: "something else" } });
  error.details.push({ type: "google.rpc.ErrorInfo", value: Uint8Array.of(255, 255) });
  assert.deepEqual([HostdevError.from(error).reason, HostdevError.from(error).reasons], ["", []]);
});

test("a connection's own failure is UNAVAILABLE, a cancelled or late call is not", () => {
  const system = Object.assign(new Error("connect ENOENT"), { code: "ENOENT" });
  const codes = [Code.Internal, Code.Aborted, Code.Canceled, Code.DeadlineExceeded].map((code) => {
    const error = HostdevError.from(new ConnectError("", code, undefined, undefined, system));
    return [error.code, error.unreachable];
  });
  assert.deepEqual(codes, [
    ["UNAVAILABLE", true],
    ["UNAVAILABLE", true],
    ["CANCELLED", false],
    ["DEADLINE_EXCEEDED", true],
  ]);
});
