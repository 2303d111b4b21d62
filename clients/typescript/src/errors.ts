/** What a refused or failed call says, unpacked from the wire. */

import { Code, ConnectError } from "@connectrpc/connect";
import {
  BadRequestSchema,
  ErrorInfoSchema,
  PreconditionFailureSchema,
  RetryInfoSchema,
} from "./gen/google/rpc/error_details_pb.js";
import { ErrorReason, ReasonSchema } from "./gen/hostdev/v1/error_pb.js";

const DOMAIN = "hostdevd";

/** gRPC's names of the statuses, in the order of their numbers. */
const STATUS = [
  "OK",
  "CANCELLED",
  "UNKNOWN",
  "INVALID_ARGUMENT",
  "DEADLINE_EXCEEDED",
  "NOT_FOUND",
  "ALREADY_EXISTS",
  "PERMISSION_DENIED",
  "RESOURCE_EXHAUSTED",
  "FAILED_PRECONDITION",
  "ABORTED",
  "OUT_OF_RANGE",
  "UNIMPLEMENTED",
  "INTERNAL",
  "UNAVAILABLE",
  "DATA_LOSS",
  "UNAUTHENTICATED",
] as const;

/** gRPC's name of a status, `NOT_FOUND`. */
export type StatusName = (typeof STATUS)[number];

/** One cause of a refusal. `code` is an `ErrorReason` without its prefix, empty where this client does not know it. */
export interface Cause {
  readonly code: string;
  readonly subject: string;
  readonly message: string;
  /** What to do about it; empty when nothing can be done. */
  readonly remedy: string;
}

/** A field of the request that is wrong: its path, `filter.ids[0]`, and what is wrong with it. */
export interface FieldViolation {
  readonly field: string;
  readonly description: string;
}

/**
 * A call failed.
 *
 * There is one class on purpose: programs decide by `code` and `reason`, and new reasons need no new classes.
 *
 * @example
 * try {
 *   await client.attach("alpha", "pci_0000_01_00_0");
 * } catch (error) {
 *   if (!(error instanceof HostdevError) || error.reason !== "HELD_BY_OTHER_VM") throw error;
 *   console.error(`${error.metadata["vm_name"]} has it`);
 * }
 */
export class HostdevError extends Error {
  override readonly name = "HostdevError";
  /** The gRPC status. */
  readonly code: StatusName;
  /** An `ErrorReason` without its prefix; empty when the failure does not come from hostdevd itself. */
  readonly reason: string;
  /** Every value that the message mentions. */
  readonly metadata: Readonly<Record<string, string>>;
  /** The causes, each with subject and remedy. */
  readonly reasons: readonly Cause[];
  readonly fieldViolations: readonly FieldViolation[];
  /** How long the server asks to wait. */
  readonly retryAfterMs: number | undefined;
  /** The RPC. */
  readonly method: string;

  /** Reads all that the error carries; unreadable details are left out. */
  constructor(error: ConnectError, method = "") {
    const info = error.findDetails(ErrorInfoSchema).find((detail) => detail.domain === DOMAIN);
    const code = info === undefined && lostConnection(error) ? "UNAVAILABLE" : (STATUS[error.code] ?? "UNKNOWN");
    super(`${info?.reason || code}: ${error.rawMessage}`, { cause: error });
    this.code = code;
    this.reason = info?.reason ?? "";
    this.metadata = info?.metadata ?? {};
    this.reasons = causes(error);
    this.fieldViolations = error
      .findDetails(BadRequestSchema)
      .flatMap((detail) => detail.fieldViolations)
      .map(({ field, description }) => ({ field, description }));
    const delay = error.findDetails(RetryInfoSchema)[0]?.retryDelay;
    this.retryAfterMs = delay && Number(delay.seconds) * 1000 + delay.nanos / 1e6;
    this.method = method;
  }

  /** Nobody answered, or not in time: the same call may work later. */
  get unreachable(): boolean {
    return this.code === "UNAVAILABLE" || this.code === "DEADLINE_EXCEEDED";
  }

  /**
   * The error that a call of the bare stubs has thrown, as one of these. With the `signal` of the call, a stream that
   * the end of its connection closed is told from one that the caller cancelled.
   */
  static from(error: unknown, method = "", signal?: AbortSignal): HostdevError {
    if (error instanceof HostdevError) return error;
    let failure = ConnectError.from(error);
    if (failure.code === Code.Canceled && signal?.aborted === false) {
      failure = new ConnectError(failure.rawMessage, Code.Unavailable, undefined, undefined, failure);
    }
    return new HostdevError(failure, method);
  }
}

/** Node's own errors (no such socket, connection reset) come with codes that vary; gRPC has one for all of them. */
function lostConnection(error: ConnectError): boolean {
  if (error.code === Code.Canceled || error.code === Code.DeadlineExceeded) return false;
  for (let cause = error.cause; cause instanceof Error; cause = cause.cause) {
    if ("code" in cause && typeof cause.code === "string") return true;
  }
  return false;
}

function causes(error: ConnectError): Cause[] {
  const reasons = error.findDetails(ReasonSchema);
  if (reasons.length > 0) {
    return reasons.map(({ code, subject, message, remedy }) => ({ code: reasonName(code), subject, message, remedy }));
  }
  // What a gateway that knows only google.rpc leaves of the reasons: all but the remedies.
  return error
    .findDetails(PreconditionFailureSchema)
    .flatMap((detail) => detail.violations)
    .map(({ type, subject, description }) => ({
      code: type in ErrorReason ? type : "",
      subject,
      message: description,
      remedy: "",
    }));
}

function reasonName(code: ErrorReason): string {
  return code === ErrorReason.UNSPECIFIED ? "" : (ErrorReason[code] ?? "");
}
