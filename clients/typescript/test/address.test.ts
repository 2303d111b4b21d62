import assert from "node:assert/strict";
import { afterEach, test } from "node:test";
import { ADDRESS_VARIABLE, openConnection, parseAddress } from "../src/address.js";

afterEach(() => delete process.env[ADDRESS_VARIABLE]);

test("an address is a socket's path or a host and port", () => {
  assert.deepEqual(parseAddress("unix:/run/x.sock"), { path: "/run/x.sock" });
  assert.deepEqual(parseAddress("host.example:50051"), { host: "host.example", port: 50051 });
  assert.deepEqual(parseAddress("[::1]:1"), { host: "[::1]", port: 1 });
});

test("without an address it is the environment's, else the local socket", () => {
  assert.deepEqual(parseAddress(), { path: "/run/hostdevd/hostdevd.sock" });
  process.env[ADDRESS_VARIABLE] = "localhost:1";
  assert.deepEqual(parseAddress(), { host: "localhost", port: 1 });
  assert.deepEqual(parseAddress("unix:/a"), { path: "/a" });
});

test("what is no address is refused", () => {
  for (const wrong of [
    "unix:",
    "host",
    "host:",
    ":1",
    "host:65536",
    "http://host:1",
    "host:1/path",
    "user@host:1",
    "::1:1",
    "a b:1",
  ]) {
    assert.throws(() => parseAddress(wrong), TypeError, wrong);
  }
});

test("only a loopback address goes unencrypted", () => {
  for (const host of ["localhost", "127.0.0.1", "127.9.9.9", "[::1]"]) openConnection({ host, port: 1 }).close();
  for (const host of ["host.example", "10.0.0.1", "127.example", "[::2]", "localhost.example"]) {
    assert.throws(() => openConnection({ host, port: 1 }), /give tls/, host);
    openConnection({ host, port: 1 }, {}).close();
  }
});
