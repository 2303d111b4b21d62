import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import * as net from "node:net";
import { join } from "node:path";
import { after, before, test } from "node:test";
import * as tls from "node:tls";
import { HostdevClient, HostdevError, type TlsOptions } from "../../src/index.js";
import { AssignmentState, Scope } from "../../src/gen/hostdev/v1/assignment_pb.js";
import { ChangeKind, type HolderChange } from "../../src/gen/hostdev/v1/service_pb.js";
import { SimulatedServer } from "./server.js";

const NIC = "pci_0000_01_00_0";

let server: SimulatedServer;
before(async () => (server = await SimulatedServer.start()));
after(() => server[Symbol.asyncDispose]());

/** A listener on loopback that hands every connection to the server's socket. */
async function front<S extends net.Server>(
  listener: S,
  event: string,
): Promise<S & { port: number; links: [net.Socket, net.Socket][] }> {
  const links: [net.Socket, net.Socket][] = [];
  listener.on(event, (near: net.Socket) => {
    const far = net.connect(server.socket);
    for (const one of [near, far]) one.on("error", () => [near, far].forEach((each) => each.destroy()));
    near.pipe(far).pipe(near);
    links.push([near, far]);
  });
  listener.listen(0, "127.0.0.1");
  await once(listener, "listening");
  return Object.assign(listener, { port: (listener.address() as net.AddressInfo).port, links });
}

function end(
  { links, close }: { links: [net.Socket, net.Socket][]; close: () => unknown },
  listener: net.Server,
): void {
  close.call(listener);
  for (const socket of links.flat()) socket.destroy();
}

test("pages of two hold the same devices as one page", async () => {
  using client = new HostdevClient(server.address);
  const whole = await (await client.listDevices({ types: ["pci"] })).toArray();
  const pages = await (await client.listDevices({ types: ["pci"] }, { pageSize: 2 })).toArray();
  assert.ok(whole.length > 4);
  assert.deepEqual(
    pages.map(({ uid }) => uid),
    whole.map(({ uid }) => uid),
  );
});

test("a refusal tells who is in the way and what to do about it", async () => {
  using client = new HostdevClient(server.address);
  await assert.rejects(client.attach("alpha", "pci_0000_16_00_0"), (error) => {
    assert.ok(error instanceof HostdevError);
    assert.deepEqual(
      [error.code, error.reason, error.metadata["vm_name"]],
      ["FAILED_PRECONDITION", "HELD_BY_OTHER_VM", "keeper"],
    );
    assert.deepEqual(
      error.reasons.map(({ code }) => code),
      ["HELD_BY_OTHER_VM"],
    );
    assert.notEqual(error.reasons[0]?.remedy, "");
    return true;
  });
  await assert.rejects(client.getDevice("nothing"), { code: "NOT_FOUND", reason: "DEVICE_NOT_FOUND" });
});

test("over TLS both sides show their certificates", async () => {
  const [serverTls, clientTls] = ["hostdevd.example", "operator"].map(certificate) as [TlsOptions, TlsOptions];
  const options = {
    ...serverTls,
    ca: clientTls.cert,
    requestCert: true,
    rejectUnauthorized: true,
    ALPNProtocols: ["h2"],
  };
  const listener = await front(tls.createServer(options as tls.TlsOptions), "secureConnection");
  try {
    const trust = { ca: serverTls.cert, servername: "hostdevd.example" } as TlsOptions;
    const ask = async (given: TlsOptions) => {
      using client = new HostdevClient(`127.0.0.1:${listener.port}`, { tls: given });
      return (await client.getHost({ timeoutMs: 5_000 })).name;
    };
    assert.notEqual(await ask({ ...trust, ...clientTls }), "");
    await assert.rejects(ask(trust), { name: "HostdevError", code: "UNAVAILABLE" });
    await assert.rejects(ask(clientTls), { name: "HostdevError", code: "UNAVAILABLE" });
  } finally {
    end(listener, listener);
  }
});

function certificate(name: string): TlsOptions {
  const [key, cert] = [join(server.directory, `${name}.key`), join(server.directory, `${name}.pem`)];
  const algorithm = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  const subject = ["-subj", `/CN=${name}`, "-addext", `subjectAltName=DNS:${name}`, "-days", "2"];
  execFileSync("openssl", ["req", "-x509", ...algorithm, ...subject, "-keyout", key, "-out", cert], {
    stdio: "ignore",
  });
  return { key: readFileSync(key), cert: readFileSync(cert) };
}

test("a watch over a connection that died without a word goes on over another", async () => {
  const listener = await front(net.createServer(), "connection");
  try {
    using client = new HostdevClient(`127.0.0.1:${listener.port}`);
    const interruptions: HostdevError[] = [];
    const options = {
      bookmarkIntervalMs: 1_000,
      onInterrupted: (error: HostdevError) => void interruptions.push(error),
    };
    let links = 0;
    for await (const { event } of client.watchDevices({ types: ["usb_device"] }, options)) {
      if (event.case !== "bookmark") continue;
      if (interruptions.length > 0) break;
      if (links > 0) continue;
      links = listener.links.length;
      for (const [near, far] of listener.links) far.unpipe(near).resume();
    }
    assert.match(interruptions[0]?.message ?? "", /no sign of life for 3000 ms/);
  } finally {
    end(listener, listener);
  }
});

test("a watch outlives its server and ends with the truth", async () => {
  await using own = await SimulatedServer.start();
  using client = new HostdevClient(own.address);
  const interruptions: HostdevError[] = [];
  const watch = client.watchHolders({ vms: ["alpha"], onInterrupted: (error) => void interruptions.push(error) });
  const held = new Map<string, string>();
  let whole = false;
  const follow = async (done: () => boolean): Promise<void> => {
    while (!whole || !done()) {
      const { value: message } = await watch.next();
      assert.ok(message);
      if (message.event.case === "reset") held.clear();
      if (message.event.case === "reset" || message.event.case === "bookmark")
        whole = message.event.case === "bookmark";
      if (message.event.case === "snapshot")
        for (const { name, device } of message.event.value.holders) held.set(name, device);
      if (message.event.case === "changeBatch") for (const change of message.event.value.changes) apply(held, change);
    }
  };
  await follow(() => true);
  assert.deepEqual([...held.values()], []);
  await client.attach("alpha", NIC, { scope: Scope.LIVE });
  await follow(() => held.size > 0);
  assert.deepEqual([...held.values()], [NIC]);

  await own.kill();
  await assert.rejects(client.getHost({ timeoutMs: 500 }), { code: "UNAVAILABLE" });
  const restart = own.run().then(() => client.detach({ vm: "alpha", device: NIC }));
  const [detached] = await Promise.all([restart, follow(() => held.size === 0)]);
  assert.equal(detached.assignment?.state, AssignmentState.DETACHED);
  assert.deepEqual(
    [...new Set(interruptions.map(({ code }) => code))],
    ["UNAVAILABLE"],
    interruptions.map(String).join("\n"),
  );
  await watch.return();
});

function apply(held: Map<string, string>, { kind, holder }: HolderChange): void {
  if (holder && kind === ChangeKind.REMOVE) held.delete(holder.name);
  else if (holder) held.set(holder.name, holder.device);
}

test("an abort ends a watch that waits", async () => {
  using client = new HostdevClient(server.address);
  const controller = new AbortController();
  const watch = client.watchHolders({ changesOnly: true, signal: controller.signal });
  await watch.next();
  const waiting = watch.next();
  controller.abort();
  await assert.rejects(waiting, { name: "HostdevError", code: "CANCELLED" });
});

test("a closed client ends its watches and makes no more calls", async () => {
  const client = new HostdevClient(server.address);
  const watch = client.watchHolders({ changesOnly: true });
  await watch.next();
  const waiting = watch.next();
  client.close();
  await assert.rejects(waiting, { name: "HostdevError", code: "CANCELLED" });
  await assert.rejects(client.getHost(), { name: "HostdevError", code: "CANCELLED" });
});
