import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import assert from "node:assert/strict";
import { test } from "node:test";
import { HostdevError } from "../src/errors.js";
import { RetryInfoSchema } from "../src/gen/google/rpc/error_details_pb.js";
import { follow, type WatchKind, type WatchOptions } from "../src/watch.js";

interface Told {
  readonly resumeToken: string;
  readonly event: { readonly case: string | undefined };
}

const told = (name: string, resumeToken = ""): Told => ({ resumeToken, event: { case: name } });
const unavailable = () => new ConnectError("gone", Code.Unavailable);

/** What the server does with one stream: messages, then an error, or the end; `silence` never says anything again. */
type Script = readonly (Told | ConnectError | "silence")[];

/** A watch whose streams follow the scripts, one after the other; remembers what they were asked for. */
class ScriptedWatch implements WatchKind<Told> {
  readonly method = "WatchNothing";
  readonly opened: { token: string; changesOnly: boolean }[] = [];
  readonly signals: AbortSignal[] = [];
  closed = 0;
  readonly #scripts: Script[];

  constructor(...scripts: Script[]) {
    this.#scripts = scripts;
  }

  async *open(token: string, changesOnly: boolean, signal: AbortSignal): AsyncGenerator<Told> {
    this.opened.push({ token, changesOnly });
    this.signals.push(signal);
    try {
      yield* this.#play(
        this.#scripts[this.opened.length - 1] ?? [new ConnectError("no more", Code.Unimplemented)],
        signal,
      );
    } finally {
      this.closed += 1;
    }
  }

  async *#play(script: Script, signal: AbortSignal): AsyncGenerator<Told> {
    for (const step of script) {
      if (step instanceof ConnectError) throw step;
      if (step === "silence")
        await new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
      else yield step;
    }
  }

  lost(): Told {
    return told("lost");
  }
}

const atOnce = { pause: async () => {}, jitter: () => 0 };

/** All messages up to the error that ends the watch: scripts that run out end it with `UNIMPLEMENTED`. */
async function all(watch: ScriptedWatch, options: WatchOptions = {}): Promise<{ seen: string[]; error: HostdevError }> {
  const seen: string[] = [];
  try {
    for await (const message of follow(watch, { ...atOnce, ...options })) seen.push(message.event.case ?? "");
  } catch (error) {
    assert.ok(error instanceof HostdevError);
    return { seen, error };
  }
  assert.fail("a watch does not end by itself");
}

test("a watch resumes at the token of the last message", async () => {
  const watch = new ScriptedWatch(
    [told("bookmark", "t1"), told("changeBatch", "t2"), unavailable()],
    [told("bookmark", "t3")],
  );
  const { seen } = await all(watch, { resumeToken: "t0", changesOnly: true });
  assert.deepEqual(seen, ["bookmark", "changeBatch", "bookmark"]);
  assert.deepEqual(
    watch.opened.map(({ token }) => token),
    ["t0", "t2", "t3"],
  );
});

test("a message that has no token leaves the one before in force", async () => {
  const watch = new ScriptedWatch([told("bookmark", "t1"), told("snapshot"), unavailable()]);
  await all(watch);
  assert.deepEqual(
    watch.opened.map(({ token }) => token),
    ["", "t1"],
  );
});

test("a message is processed when the next one is asked for, not when it is handed out", async () => {
  const watch = new ScriptedWatch([told("bookmark", "t1"), unavailable()], [told("bookmark", "t2"), "silence"]);
  const messages = follow(watch, atOnce);
  await messages.next();
  assert.equal(watch.opened.length, 1);
  await messages.next();
  assert.deepEqual(
    watch.opened.map(({ token }) => token),
    ["", "t1"],
  );
  await messages.return();
});

test("an interruption without a token clears the caller's state and asks for a snapshot", async () => {
  const watch = new ScriptedWatch([told("snapshot"), unavailable()], [told("snapshot"), told("bookmark", "t1")]);
  const { seen } = await all(watch, { changesOnly: true });
  assert.deepEqual(seen, ["snapshot", "lost", "snapshot", "bookmark"]);
  assert.deepEqual(watch.opened.slice(0, 2), [
    { token: "", changesOnly: true },
    { token: "", changesOnly: false },
  ]);
});

test("a reset of the server's own is not doubled", async () => {
  const watch = new ScriptedWatch([told("snapshot"), unavailable()], [told("reset"), told("snapshot")]);
  assert.deepEqual((await all(watch)).seen, ["snapshot", "reset", "snapshot"]);
});

test("after a reset the old token never comes back", async () => {
  const watch = new ScriptedWatch([told("reset"), told("snapshot"), unavailable()]);
  await all(watch, { resumeToken: "old" });
  assert.deepEqual(
    watch.opened.map(({ token }) => token),
    ["old", ""],
  );
});

test("an interruption before the first message of a resumed stream resets nothing", async () => {
  const watch = new ScriptedWatch(
    [told("bookmark", "t1"), unavailable()],
    [unavailable()],
    [told("changeBatch", "t2")],
  );
  assert.deepEqual((await all(watch)).seen, ["bookmark", "changeBatch"]);
});

test("a first stream that cannot be opened throws", async () => {
  const { error, seen } = await all(new ScriptedWatch([unavailable()], [told("bookmark", "t1")]));
  assert.deepEqual([error.code, error.method, seen], ["UNAVAILABLE", "WatchNothing", []]);
});

test("a refusal that trying again does not cure throws", async () => {
  const denied = new ConnectError("no", Code.PermissionDenied);
  assert.equal(
    (await all(new ScriptedWatch([told("bookmark", "t1"), denied], [told("bookmark", "t2")]))).error.code,
    "PERMISSION_DENIED",
  );
});

test("a stream that ends without a status is opened again", async () => {
  assert.deepEqual((await all(new ScriptedWatch([told("bookmark", "t1")], [told("changeBatch", "t2")]))).seen, [
    "bookmark",
    "changeBatch",
  ]);
});

test("a stream that fell silent is dead after three intervals", async () => {
  const interruptions: HostdevError[] = [];
  const watch = new ScriptedWatch([told("bookmark", "t1"), "silence"], [told("changeBatch", "t2")]);
  const { seen } = await all(watch, { bookmarkIntervalMs: 5, onInterrupted: (error) => interruptions.push(error) });
  assert.deepEqual(seen, ["bookmark", "changeBatch"]);
  assert.deepEqual(
    [interruptions[0]?.code, interruptions[0]?.message],
    ["UNAVAILABLE", "UNAVAILABLE: no sign of life for 15 ms"],
  );
});

test("the time that the caller takes is no silence", async () => {
  const interruptions: HostdevError[] = [];
  const watch = new ScriptedWatch([told("bookmark", "t1"), told("changeBatch", "t2"), "silence"]);
  const messages = follow(watch, {
    ...atOnce,
    bookmarkIntervalMs: 5,
    onInterrupted: (error) => interruptions.push(error),
  });
  await messages.next();
  await new Promise((resolve) => setTimeout(resolve, 40));
  assert.equal((await messages.next()).value?.event.case, "changeBatch");
  assert.deepEqual([watch.opened.length, interruptions], [1, []]);
  await messages.return();
});

test("pauses double, are jittered, and start over when a stream answers", async () => {
  const failing: Script = [unavailable()];
  const watch = new ScriptedWatch(
    [told("bookmark", "t"), unavailable()],
    failing,
    failing,
    [told("bookmark", "t"), unavailable()],
    failing,
  );
  const low: number[] = [];
  await all(watch, { onInterrupted: (_, ms) => low.push(ms) });
  assert.deepEqual(low, [125, 250, 500, 125, 250]);
  const high: number[] = [];
  await all(new ScriptedWatch([told("bookmark", "t"), unavailable()], failing), {
    jitter: () => 1,
    onInterrupted: (_, ms) => high.push(ms),
  });
  assert.deepEqual(high, [250, 500]);
});

test("a server that asks for a longer pause gets it", async () => {
  const retry = { desc: RetryInfoSchema, value: { retryDelay: durationFromMs(2_000) } };
  const asks = new ConnectError("shutting down", Code.Unavailable, undefined, [retry]);
  const pauses: number[] = [];
  await all(new ScriptedWatch([told("bookmark", "t"), asks]), { onInterrupted: (_, ms) => pauses.push(ms) });
  assert.deepEqual(pauses, [2_000]);
});

test("an abort ends the watch, also while it pauses", async () => {
  for (const pausing of [false, true]) {
    const controller = new AbortController();
    const watch = new ScriptedWatch([told("bookmark", "t1"), pausing ? unavailable() : "silence"]);
    const options: WatchOptions = {
      signal: controller.signal,
      jitter: () => 1,
      onInterrupted: () => controller.abort(),
    };
    const messages = follow(watch, options);
    await messages.next();
    const pending = messages.next();
    if (!pausing) controller.abort();
    await assert.rejects(pending, { name: "HostdevError", code: "CANCELLED" });
  }
});

test("a caller that stops iterating ends the stream", async () => {
  const watch = new ScriptedWatch([told("bookmark", "t1"), "silence"]);
  for await (const _ of follow(watch, atOnce)) break;
  await new Promise(setImmediate);
  assert.deepEqual([watch.signals[0]?.aborted, watch.closed], [true, 1]);
});

test("an error of the caller is the caller's: the watch does not go on behind it", async () => {
  const watch = new ScriptedWatch([told("bookmark", "t1"), told("bookmark", "t2")], [told("bookmark", "t3")]);
  const messages = follow(watch, atOnce);
  await messages.next();
  await assert.rejects(messages.throw(new Error("mine")), { message: "mine" });
  assert.deepEqual([watch.opened.length, watch.signals[0]?.aborted], [1, true]);
});
