/** How a client reaches its server: addresses, encryption and the connection's own timing. */

import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import type { Transport } from "@connectrpc/connect";
import * as net from "node:net";
import type { ConnectionOptions } from "node:tls";

export const DEFAULT_ADDRESS = "unix:/run/hostdevd/hostdevd.sock";
export const ADDRESS_VARIABLE = "HOSTDEV_ADDRESS";

/**
 * Encrypts the connection, and with `cert` and `key` says who the client is (mTLS). `{}` trusts the system's
 * authorities; `ca` names others. `servername` is the name that the server's certificate must have, where it is not
 * the address's.
 */
export type TlsOptions = Pick<ConnectionOptions, "ca" | "cert" | "key" | "servername">;

/** Where a server listens: a socket's path, or a host and port. */
export type Target = { readonly path: string } | { readonly host: string; readonly port: number };

/** A connection that opens with the first call, and again whenever it was lost. */
export interface Connection {
  readonly transport: Transport;
  close(): void;
}

const HOST_PORT = /^(\[[0-9A-Fa-f:.]+\]|[^\s:/[\]@?#%]+):(\d{1,5})$/;
const LOOPBACK = /^(localhost|127(\.\d{1,3}){3}|\[::1\])$/i;
const MAX_PORT = 65_535;

// A page ends at 2 MiB, so this leaves room for one device of any size.
const LARGEST_MESSAGE = 4 * 1024 * 1024;
// hostdevd allows a ping every 5 seconds, also while a call waits for a guest without a word.
const KEEPALIVE = { pingIntervalMs: 30_000, pingTimeoutMs: 10_000 };

/**
 * The address itself, else the environment's HOSTDEV_ADDRESS, else the local socket of hostdevd.
 *
 * @throws TypeError when it is neither `unix:/path` nor `host:port`.
 */
export function parseAddress(address?: string): Target {
  const chosen = address || process.env[ADDRESS_VARIABLE] || DEFAULT_ADDRESS;
  if (chosen.startsWith("unix:") && chosen.length > "unix:".length) {
    return { path: chosen.slice("unix:".length) };
  }
  const [, host, digits] = HOST_PORT.exec(chosen) ?? [];
  const port = Number(digits);
  if (host === undefined || !(port <= MAX_PORT)) {
    throw new TypeError(`${JSON.stringify(chosen)} is no address: give unix:/path or host:port`);
  }
  return { host, port };
}

/**
 * gRPC to `target`. Without `tls` it is not encrypted, which is for sockets and the loopback interface only.
 *
 * @throws TypeError when it would send unencrypted calls over a network.
 */
export function openConnection(target: Target, tls?: TlsOptions): Connection {
  if ("path" in target && tls !== undefined) {
    throw new TypeError("a local socket is not encrypted: leave tls out");
  }
  if ("host" in target && tls === undefined && !LOOPBACK.test(target.host)) {
    throw new TypeError(`${target.host} is another machine: give tls`);
  }
  // A socket has no name of its own that could stand in a request.
  const authority = "path" in target ? "localhost" : `${target.host}:${target.port}`;
  const baseUrl = `${tls === undefined ? "http" : "https"}://${authority}`;
  const nodeOptions = "path" in target ? { createConnection: () => net.connect(target.path) } : { ...tls };
  const sessionManager = new Http2SessionManager(baseUrl, KEEPALIVE, nodeOptions);
  return {
    transport: createGrpcTransport({ baseUrl, sessionManager, readMaxBytes: LARGEST_MESSAGE }),
    close: () => sessionManager.abort(),
  };
}
