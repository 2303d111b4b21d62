/** How long to wait before trying again. */

import { setTimeout } from "node:timers/promises";
import { HostdevError } from "./errors.js";

/** Pauses in a row: each doubles the one before, up to `longestMs`. */
export interface Backoff {
  readonly firstMs: number;
  readonly longestMs: number;
}

/** The pause after so many failures in a row: doubling, jittered, at least what the server asks. */
export function pauseMs(backoff: Backoff, failures: number, askedMs = 0, jitter: () => number = Math.random): number {
  const chance = jitter();
  const backedOff = Math.min(backoff.longestMs, backoff.firstMs * 2 ** (failures - 1));
  return Math.max(backedOff * (0.5 + chance / 2), askedMs * (1 + chance / 2));
}

/** Sleeps; throws a `HostdevError` of code `CANCELLED` when `signal` is aborted. */
export async function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  try {
    await setTimeout(ms, undefined, signal && { signal });
  } catch (error) {
    throw HostdevError.from(error);
  }
}
