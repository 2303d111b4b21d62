/**
 * Replays one file of clients/vectors: node dist/test/vectors.js ADDRESS FILE
 *
 * Exit status 1, and a line for each difference, when an answer is not as recorded. The server must be a fresh one.
 */

import { fromJson, toJson, type DescMethod, type JsonObject, type JsonValue, type Message } from "@bufbuild/protobuf";
import { readFileSync } from "node:fs";
import { HostdevClient, HostdevError } from "../src/index.js";
import { HostDeviceAdminService, HostDeviceService } from "../src/gen/hostdev/v1/service_pb.js";

interface Step {
  readonly call: string;
  readonly request: JsonObject;
  readonly capture?: Readonly<Record<string, string>>;
  readonly response?: JsonValue;
  readonly messages?: JsonValue[];
  readonly error?: JsonValue;
}

type Stub = Record<string, (request: Message, options: { signal?: AbortSignal; timeoutMs?: number }) => unknown>;

const ANY = "<any>";
const TIMEOUT_MS = 20_000;

async function outcome(
  client: HostdevClient,
  call: string,
  request: JsonObject,
  messages: number,
): Promise<JsonObject> {
  const [service, name] = call.split(".");
  const admin = service === HostDeviceAdminService.name;
  const method = (admin ? HostDeviceAdminService : HostDeviceService).methods.find(
    (one: DescMethod) => one.name === name,
  );
  const send = method && ((admin ? client.admin : client.service) as unknown as Stub)[method.localName];
  if (!send) throw new Error(`there is no ${call}`);
  const message = fromJson(method.input, request);
  try {
    if (method.methodKind !== "server_streaming") {
      return { response: toJson(method.output, (await send(message, { timeoutMs: TIMEOUT_MS })) as Message) };
    }
    const received: JsonValue[] = [];
    const controller = new AbortController();
    for await (const one of send(message, {
      signal: controller.signal,
      timeoutMs: TIMEOUT_MS,
    }) as AsyncIterable<Message>) {
      if (received.push(toJson(method.output, one)) >= messages) break;
    }
    controller.abort();
    return { messages: received };
  } catch (error) {
    return { error: errorJson(HostdevError.from(error)) };
  }
}

function errorJson({ code, reason, metadata, reasons }: HostdevError): JsonObject {
  return filledFields({
    code,
    reason,
    metadata: { ...metadata },
    reasons: reasons.map((one) => filledFields({ ...one })),
  });
}

/** Leaves out what is empty, as the JSON mapping does. */
function filledFields(fields: JsonObject): JsonObject {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => Object.keys(value ?? "").length > 0));
}

/** The value with every `${name}` replaced by what was captured. */
function filled<V extends JsonValue>(value: V, captured: ReadonlyMap<string, string>): V {
  const text = JSON.stringify(value).replace(/\$\{(\w+)\}/g, (_, name: string) => {
    const found = captured.get(name);
    if (found === undefined) throw new Error(`${name} was not captured`);
    return JSON.stringify(found).slice(1, -1);
  });
  return JSON.parse(text) as V;
}

/** What stands at a path: `devices[0].uid`. */
function at(answer: JsonValue | undefined, path: string): string {
  for (const [, key, index] of path.matchAll(/([^.[\]]+)|\[(\d+)\]/g))
    answer = (answer as JsonObject | undefined)?.[key ?? index ?? ""];
  if (typeof answer !== "string") throw new Error(`nothing to capture at ${path}`);
  return answer;
}

/** Where an answer is not as expected, a line each. */
function* differences(expected: JsonValue | undefined, found: JsonValue | undefined, where: string): Generator<string> {
  if (expected === ANY && found !== undefined) return;
  if (isObject(expected) && isObject(found) && Array.isArray(expected) === Array.isArray(found)) {
    for (const key of new Set([...Object.keys(expected), ...Object.keys(found)])) {
      yield* differences(expected[key], found[key], `${where}.${key}`);
    }
  } else if (expected !== found) {
    yield `${where} is ${JSON.stringify(found) ?? "absent"}, expected ${JSON.stringify(expected) ?? "to be absent"}`;
  }
}

function isObject(value: JsonValue | undefined): value is JsonObject {
  return typeof value === "object" && value !== null;
}

async function replay(client: HostdevClient, steps: readonly Step[]): Promise<string[]> {
  const captured = new Map<string, string>();
  for (const [index, { call, request, capture = {}, response, messages, error }] of steps.entries()) {
    const found = await outcome(client, call, filled(request, captured), messages?.length ?? 1);
    const expected = filled(JSON.parse(JSON.stringify({ response, messages, error })) as JsonObject, captured);
    const lines = [...differences(expected, found, `step ${index + 1}, ${call}: `)];
    if (lines.length > 0) return lines; // what follows builds on it
    for (const [name, path] of Object.entries(capture))
      captured.set(name, at(found["response"] ?? found["messages"], path));
  }
  return [];
}

const [address, file = ""] = process.argv.slice(2);
using client = new HostdevClient(address);
const { steps } = JSON.parse(readFileSync(file, "utf8")) as { steps: Step[] };
for (const line of await replay(client, steps)) {
  console.error(line);
  process.exitCode = 1;
}
