/**
 * Watches that go on by themselves: over lost connections, restarted servers and streams that fell silent.
 *
 * A message counts as processed when the next one is asked for. After an interruption the watch resumes at the token
 * of the last processed message, so nothing is missed. It may be repeated: handle messages so that a second time is
 * harmless.
 */

import { Code, ConnectError } from "@connectrpc/connect";
import { HostdevError, type StatusName } from "./errors.js";
import { pauseMs, sleep, type Backoff } from "./patience.js";

/** Where a watch starts, when it gives a stream up, and how it ends. */
export interface WatchOptions {
  /** Start after this: the token of an earlier message, list, attach or detach. Empty: start with a snapshot. */
  readonly resumeToken?: string;
  /** Without a token: no snapshot, only what changes from now on. */
  readonly changesOnly?: boolean;
  /** How often the server shows a sign of life, 1 to 300 s; three of them without any, and the stream counts as dead. */
  readonly bookmarkIntervalMs?: number;
  /** Ends the watch: the iteration throws a `HostdevError` with code `CANCELLED`. */
  readonly signal?: AbortSignal;
  /** Told of each interruption, and of the pause that follows. */
  readonly onInterrupted?: (error: HostdevError, pauseMs: number) => void;
  /** Stand in for the clock and for chance (0 to 1) in tests. */
  readonly pause?: (ms: number, signal?: AbortSignal) => Promise<void>;
  readonly jitter?: () => number;
}

/** What the messages of all watches have in common. */
export interface WatchMessage {
  readonly resumeToken: string;
  readonly event: { readonly case: string | undefined };
}

/** One kind of watch: its RPC, how a stream of it is opened, and the reset that says that changes were lost. */
export interface WatchKind<M extends WatchMessage> {
  readonly method: string;
  open(resumeToken: string, changesOnly: boolean, signal: AbortSignal): AsyncIterable<M>;
  lost(): M;
}

export const DEFAULT_BOOKMARK_INTERVAL_MS = 15_000;
const SILENT_INTERVALS = 3;
const BACKOFF: Backoff = { firstMs: 250, longestMs: 30_000 };

/** Codes that trying again does not cure. */
const HOPELESS: ReadonlySet<StatusName> = new Set([
  "INVALID_ARGUMENT",
  "NOT_FOUND",
  "FAILED_PRECONDITION",
  "UNAUTHENTICATED",
  "PERMISSION_DENIED",
  "UNIMPLEMENTED",
]);

/** Follows one watch for as long as the caller iterates; see `HostdevClient.watchHolders`. */
export async function* follow<M extends WatchMessage>(
  kind: WatchKind<M>,
  options: WatchOptions,
): AsyncGenerator<M, void, undefined> {
  const silenceMs = SILENT_INTERVALS * (options.bookmarkIntervalMs ?? DEFAULT_BOOKMARK_INTERVAL_MS);
  let token = options.resumeToken ?? "";
  let known = false; // The caller has state that a snapshot alone would not clear.
  let answered = false;
  let failures = 0;
  for (;;) {
    // After an interruption without a token only a snapshot tells what was missed.
    const stream = new GuardedStream<M>(
      (signal) => kind.open(token, (options.changesOnly ?? false) && !known, signal),
      silenceMs,
      kind.method,
      options.signal,
    );
    let mustReset = known && !token;
    let message: M | HostdevError;
    try {
      while (!((message = await stream.next()) instanceof HostdevError)) {
        answered = true;
        failures = 0;
        if (mustReset && message.event.case !== "reset") yield kind.lost();
        mustReset = false;
        known = true;
        yield message;
        // The old token must not come back after a reset: a restored server could grow up to it.
        if (message.event.case === "reset") token = "";
        token = message.resumeToken || token;
      }
    } finally {
      stream.end();
    }
    if (!answered || HOPELESS.has(message.code) || options.signal?.aborted) throw message;
    failures += 1;
    const pause = pauseMs(BACKOFF, failures, message.retryAfterMs, options.jitter);
    options.onInterrupted?.(message, pause);
    await (options.pause ?? sleep)(pause, options.signal);
  }
}

/**
 * A stream that ends when one of its messages was awaited for too long: over a dead connection, waiting never ends by
 * itself. The time that the caller takes between two messages does not count.
 */
class GuardedStream<M> {
  readonly #abort = new AbortController();
  readonly #signal: AbortSignal;
  readonly #messages: AsyncIterator<M>;
  readonly #silenceMs: number;
  readonly #method: string;

  constructor(
    open: (signal: AbortSignal) => AsyncIterable<M>,
    silenceMs: number,
    method: string,
    signal?: AbortSignal,
  ) {
    this.#signal = signal ? AbortSignal.any([signal, this.#abort.signal]) : this.#abort.signal;
    this.#messages = open(this.#signal)[Symbol.asyncIterator]();
    this.#silenceMs = silenceMs;
    this.#method = method;
  }

  /** The next message, or why there is none. */
  async next(): Promise<M | HostdevError> {
    let silent = false;
    const guard = setTimeout(() => {
      silent = true;
      this.end();
    }, this.#silenceMs);
    try {
      const result = await this.#messages.next();
      // A server ends no watch without a status; a proxy in between may.
      return result.done ? this.#unavailable("the stream ended") : result.value;
    } catch (error) {
      if (silent) return this.#unavailable(`no sign of life for ${this.#silenceMs} ms`);
      return HostdevError.from(error, this.#method, this.#signal);
    } finally {
      clearTimeout(guard);
    }
  }

  end(): void {
    this.#abort.abort();
    // The stream closes its connection when it is told that nobody asks for more; how it ends matters to nobody then.
    this.#messages.return?.().catch(() => {});
  }

  #unavailable(message: string): HostdevError {
    return new HostdevError(new ConnectError(message, Code.Unavailable), this.#method);
  }
}
