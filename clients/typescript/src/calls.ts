/** How calls are made: their deadlines, which of them are repeated, and how long. */

import type { DescMessage, DescMethodServerStreaming, DescMethodUnary } from "@bufbuild/protobuf";
import type { Message, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import type { GenMessage } from "@bufbuild/protobuf/codegenv2";
import type { Transport } from "@connectrpc/connect";
import type { Connection } from "./address.js";
import { HostdevError } from "./errors.js";
import type { Assignment, AssignmentState } from "./gen/hostdev/v1/assignment_pb.js";
import { Listing, type Page } from "./listing.js";
import { pauseMs, sleep, type Backoff } from "./patience.js";

export interface CallOptions {
  /** Gives the call up; what the server has begun goes on. */
  readonly signal?: AbortSignal;
  readonly timeoutMs?: number;
}

export interface ListOptions extends CallOptions {
  /** How many items a page has at most. */
  readonly pageSize?: number;
}

export interface WaitOptions {
  /** How long to wait for the result: 60 s. The call is repeated as long as there is none; 0 calls once. */
  readonly waitMs?: number;
  /** Gives the wait up; what the server has begun goes on. */
  readonly signal?: AbortSignal;
}

const DEFAULT_TIMEOUT_MS = 30_000;
const DEFAULT_WAIT_MS = 60_000;
/** A longer wait is made of several calls, so that nothing in between takes a quiet one for dead. */
const LONGEST_CALL_MS = 60_000;
const REPEAT_AFTER_MS = 100;
const READ_ATTEMPTS = 4;
const READ_BACKOFF: Backoff = { firstMs: 200, longestMs: 2_000 };

/** Makes calls over one connection; all but `stream` throw `HostdevError`. */
export class Calls {
  readonly #connect: () => Connection;
  readonly #connection: Connection;
  readonly #timeoutMs: number;
  readonly #closed = new AbortController();

  constructor(connect: () => Connection, timeoutMs = DEFAULT_TIMEOUT_MS) {
    this.#connect = connect;
    this.#connection = connect();
    this.#timeoutMs = timeoutMs;
  }

  get transport(): Transport {
    return this.#connection.transport;
  }

  /** Ends all calls, also those to come. */
  close(): void {
    this.#closed.abort();
    this.#connection.close();
  }

  /** Aborted with `signal`, and when the client is closed. */
  untilClosed(signal: AbortSignal | undefined): AbortSignal {
    return signal ? AbortSignal.any([signal, this.#closed.signal]) : this.#closed.signal;
  }

  /** Calls once, as is right for what changes something: the server may have done it before the connection was lost. */
  async once<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
    options: CallOptions = {},
  ): Promise<MessageShape<O>> {
    // In the header the time is a whole number; 0 would be no deadline at all.
    const timeoutMs = Math.max(1, Math.ceil(options.timeoutMs ?? this.#timeoutMs));
    const signal = this.untilClosed(options.signal);
    try {
      signal.throwIfAborted(); // Connect would leave the deadline's timer behind, and the process waits for that.
      return (await this.transport.unary(method, signal, timeoutMs, undefined, request)).message;
    } catch (error) {
      throw HostdevError.from(error, method.name, signal);
    }
  }

  /** Calls what only reads: again after a pause while nobody answers and the time allows. */
  async read<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
    options: CallOptions = {},
  ): Promise<MessageShape<O>> {
    const end = performance.now() + (options.timeoutMs ?? this.#timeoutMs);
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await this.once(method, request, { ...options, timeoutMs: end - performance.now() });
      } catch (error) {
        const failure = HostdevError.from(error);
        const pause = pauseMs(READ_BACKOFF, attempt, failure.retryAfterMs);
        const late = performance.now() + pause >= end;
        if (failure.code !== "UNAVAILABLE" || attempt === READ_ATTEMPTS || late) throw failure;
        await sleep(pause, this.untilClosed(options.signal));
      }
    }
  }

  /** Lists, page by page. */
  async list<I extends DescMessage, P extends Message & Page, Item>(
    method: DescMethodUnary<I, GenMessage<P>>,
    request: MessageInitShape<I>,
    items: (page: P) => Item[],
    options: ListOptions = {},
  ): Promise<Listing<Item>> {
    const { pageSize = 0 } = options;
    return Listing.open((pageToken) => this.read(method, { ...request, pageSize, pageToken }, options), items);
  }

  /**
   * One stream of a watch, without a deadline, over a connection of its own: the next stream must not go over one that
   * died without a word, and a caller who reads slowly must not fill the one that all other calls share.
   */
  async *stream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodServerStreaming<I, O>,
    request: MessageInitShape<I>,
    signal: AbortSignal,
  ): AsyncGenerator<MessageShape<O>, void, undefined> {
    async function* only() {
      yield request;
    }
    const connection = this.#connect();
    try {
      yield* (await connection.transport.stream(method, signal, undefined, undefined, only())).message;
    } finally {
      connection.close();
    }
  }

  /** Repeats `call`, which waits in the server, until the state is none that passes by itself or the time is over. */
  async untilSettled<R extends { readonly assignment?: Assignment | undefined }>(
    passing: ReadonlySet<AssignmentState>,
    { waitMs = DEFAULT_WAIT_MS, signal }: WaitOptions,
    call: (waitMs: number) => Promise<R>,
  ): Promise<R> {
    const end = performance.now() + waitMs;
    for (;;) {
      const left = Math.max(0, Math.round(end - performance.now()));
      const response = await call(Math.min(left, LONGEST_CALL_MS));
      const late = performance.now() + REPEAT_AFTER_MS >= end;
      if (!response.assignment || !passing.has(response.assignment.state) || late) return response;
      await sleep(REPEAT_AFTER_MS, this.untilClosed(signal));
    }
  }
}
