/** A hostdevd of the test's own, with the built-in simulated host. HOSTDEVD in the environment is the program. */

import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

export class SimulatedServer implements AsyncDisposable {
  #process: ChildProcess | undefined;

  private constructor(readonly directory: string) {}

  static async start(): Promise<SimulatedServer> {
    const server = new SimulatedServer(await mkdtemp(join(tmpdir(), "hostdevd-")));
    await server.run();
    return server;
  }

  get socket(): string {
    return join(this.directory, "h.sock");
  }

  get address(): string {
    return `unix:${this.socket}`;
  }

  /** Starts the program, and goes on with the state that is there. */
  async run(): Promise<void> {
    const program = process.env["HOSTDEVD"];
    if (!program) throw new Error("HOSTDEVD must name the program");
    const options = ["--listen", this.address, "--state-dir", join(this.directory, "state")];
    this.#process = spawn(program, ["serve", "--simulate", ...options], { stdio: ["ignore", "pipe", "ignore"] });
    if (!this.#process.stdout) throw new Error("no output");
    for await (const line of createInterface(this.#process.stdout)) if (line.startsWith("listening on ")) return;
    throw new Error("hostdevd did not start");
  }

  /** Ends it without a warning, as a power failure would. */
  async kill(): Promise<void> {
    if (!this.#process || this.#process.exitCode !== null || this.#process.signalCode !== null) return;
    this.#process.kill("SIGKILL");
    await once(this.#process, "exit");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    await rm(this.directory, { recursive: true });
  }
}
