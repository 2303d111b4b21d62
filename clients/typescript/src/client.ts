/** A client of one hostdevd: its calls as methods, its lists as iterators, its errors as one class. */

import { create, type DescMessage, type DescMethodServerStreaming } from "@bufbuild/protobuf";
import type { Message, MessageInitShape } from "@bufbuild/protobuf";
import type { GenMessage } from "@bufbuild/protobuf/codegenv2";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient, type Client, type Transport } from "@connectrpc/connect";
import { randomUUID } from "node:crypto";
import { openConnection, parseAddress, type TlsOptions } from "./address.js";
import { Calls, type CallOptions, type ListOptions, type WaitOptions } from "./calls.js";
import { HostdevError } from "./errors.js";
import { AssignmentState, GroupPolicy, Scope, type Assignment } from "./gen/hostdev/v1/assignment_pb.js";
import type { Device, DeviceFilterSchema } from "./gen/hostdev/v1/device_pb.js";
import type { Group } from "./gen/hostdev/v1/group_pb.js";
import type { Holder } from "./gen/hostdev/v1/holder_pb.js";
import type { Host } from "./gen/hostdev/v1/host_pb.js";
import * as v1 from "./gen/hostdev/v1/service_pb.js";
import type { Listing } from "./listing.js";
import { DEFAULT_BOOKMARK_INTERVAL_MS, follow, type WatchMessage, type WatchOptions } from "./watch.js";

const { method: RPC } = v1.HostDeviceService;
const { method: ADMIN_RPC } = v1.HostDeviceAdminService;

/** The server answers when `wait` is over: the deadline only guards against its death. */
const GRACE_MS = 2_000;

const ATTACHING: ReadonlySet<AssignmentState> = new Set([AssignmentState.ATTACHING, AssignmentState.ROLLING_BACK]);
const DETACHING: ReadonlySet<AssignmentState> = new Set([AssignmentState.DETACHING]);

/** Selects devices: `{ types: ["pci"], pciClasses: ["02"] }`. */
export type DeviceFilterInit = MessageInitShape<typeof DeviceFilterSchema>;

export interface ClientOptions {
  /** A name or a UUID: guards every call against reaching another host's server. */
  readonly host?: string;
  /** Encrypts the connection. Needed for every address but a socket's and the loopback interface's. */
  readonly tls?: TlsOptions;
  /** Bounds calls other than attach, detach and watches, which have a time of their own. 30 s. */
  readonly timeoutMs?: number;
  /** Stands in for the connection. */
  readonly transport?: Transport;
}

/** What attaches and detaches have in common. */
export interface ChangeOptions extends WaitOptions {
  readonly scope?: Scope;
  /** Dry run: check everything, return the plan, change nothing. */
  readonly validateOnly?: boolean;
}

export interface AttachOptions extends ChangeOptions {
  readonly groupPolicy?: GroupPolicy;
  /** The uids of all devices that the host may lose beside this one. Absent: not checked. */
  readonly expectedAffected?: readonly string[];
  /**
   * A UUID, the assignment's name to be; one is made when absent. A repeat with it is safe: make one yourself where a
   * lost answer must not lose the assignment.
   */
  readonly requestId?: string;
}

/** What to take back: by assignment, or by VM and device. */
export type DetachTarget = { readonly assignment: string } | { readonly vm: string; readonly device: string };

/**
 * Talks to the hostdevd at an address: `unix:/path` or `host:port`; without one, at the environment's HOSTDEV_ADDRESS,
 * else at the local socket. It connects with the first call.
 *
 * Every method throws a `HostdevError` when the call fails. What only reads is tried again when nobody answers. `service`
 * and `admin` are the bare stubs, which throw `ConnectError`.
 *
 * @example
 * using client = new HostdevClient("unix:/run/hostdevd/hostdevd.sock");
 * for await (const device of await client.listDevices({ types: ["usb_device"] })) console.log(device.name);
 */
export class HostdevClient implements Disposable {
  readonly host: string;
  readonly service: Client<typeof v1.HostDeviceService>;
  readonly admin: Client<typeof v1.HostDeviceAdminService>;
  readonly #calls: Calls;

  constructor(address?: string, options: ClientOptions = {}) {
    this.host = options.host ?? "";
    const { transport } = options;
    const target = parseAddress(address);
    const connect = () => (transport ? { transport, close: () => {} } : openConnection(target, options.tls));
    this.#calls = new Calls(connect, options.timeoutMs);
    this.service = createClient(v1.HostDeviceService, this.#calls.transport);
    this.admin = createClient(v1.HostDeviceAdminService, this.#calls.transport);
  }

  /** Drops the connection and ends the watches. What the server is doing goes on. */
  close(): void {
    this.#calls.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  // --- the host and its devices

  /** The host and whether it is fit for assigning devices. */
  async getHost(options?: CallOptions): Promise<Host> {
    return present((await this.#calls.read(RPC.getHost, { host: this.host }, options)).host);
  }

  /** All devices, or those that match. */
  async listDevices(filter?: DeviceFilterInit, options?: ListOptions): Promise<Listing<Device>> {
    const request = { host: this.host, ...(filter && { filter }) };
    return this.#calls.list(RPC.listDevices, request, (page) => page.devices, options);
  }

  /** One device, by libvirt's name or its uid. */
  async getDevice(device: string, options?: CallOptions): Promise<Device> {
    return present((await this.#calls.read(RPC.getDevice, { host: this.host, device }, options)).device);
  }

  /** The devices that can be assigned, each with what the host would lose. */
  async listEligible(
    filter?: DeviceFilterInit,
    options: ListOptions & { readonly availableOnly?: boolean; readonly includeIneligible?: boolean } = {},
  ): Promise<Listing<v1.EligibleDevice>> {
    const { availableOnly = false, includeIneligible = false } = options;
    const request = { host: this.host, availableOnly, includeIneligible, ...(filter && { filter }) };
    return this.#calls.list(RPC.listEligible, request, (page) => page.eligibleDevices, options);
  }

  /** All groups, or those with a member that matches. */
  async listGroups(filter?: DeviceFilterInit, options?: ListOptions): Promise<Listing<Group>> {
    const request = { host: this.host, ...(filter && { filter }) };
    return this.#calls.list(RPC.listGroups, request, (page) => page.groups, options);
  }

  /** One group, by its uid or by a device in it. */
  async getGroup(
    which: { readonly group: string } | { readonly device: string },
    options?: CallOptions,
  ): Promise<Group> {
    return present((await this.#calls.read(RPC.getGroup, { host: this.host, ...which }, options)).group);
  }

  // --- attach and detach

  /**
   * Gives a device, with its group, to a VM, and waits for the result.
   *
   * The answer may still be `ATTACHING` (or `ROLLING_BACK`) when the wait ran out: the server goes on.
   */
  async attach(vm: string, device: string, options: AttachOptions = {}): Promise<v1.AttachResponse> {
    const { groupPolicy, scope, validateOnly, expectedAffected, requestId = randomUUID() } = options;
    const request = {
      host: this.host,
      vm,
      device,
      groupPolicy: groupPolicy ?? GroupPolicy.UNSPECIFIED,
      scope: scope ?? Scope.UNSPECIFIED,
      validateOnly: validateOnly ?? false,
      requestId,
      ...(expectedAffected && { expectedAffected: { uids: [...expectedAffected] } }),
    };
    return this.#calls.untilSettled(ATTACHING, options, (waitMs) =>
      this.#calls.once(RPC.attach, { ...request, wait: durationFromMs(waitMs) }, answerWithin(waitMs, options)),
    );
  }

  /**
   * Takes back what was attached together, and waits until the guest has let go.
   *
   * The answer may still be `DETACHING` when the wait ran out: the server goes on.
   */
  async detach(target: DetachTarget, options: ChangeOptions = {}): Promise<v1.DetachResponse> {
    const { scope, validateOnly } = options;
    const request = { host: this.host, scope: scope ?? Scope.UNSPECIFIED, validateOnly: validateOnly ?? false };
    let found = target;
    return this.#calls.untilSettled(DETACHING, options, async (waitMs) => {
      const detach = { ...request, ...found, wait: durationFromMs(waitMs) };
      const response = await this.#calls.once(RPC.detach, detach, answerWithin(waitMs, options));
      // By VM and device, a repeat after the end would find nothing to detach.
      if (response.assignment) found = { assignment: response.assignment.name };
      return response;
    });
  }

  // --- records and holders

  /** Assignments, those closed within 30 days included. */
  async listAssignments(
    options: ListOptions & {
      readonly vm?: string;
      readonly device?: string;
      readonly states?: readonly AssignmentState[];
    } = {},
  ): Promise<Listing<Assignment>> {
    const { vm = "", device = "", states = [] } = options;
    const request = { host: this.host, vm, device, states: [...states] };
    return this.#calls.list(RPC.listAssignments, request, (page) => page.assignments, options);
  }

  /** One assignment, by its name: the attach's request id. */
  async getAssignment(name: string, options?: CallOptions): Promise<Assignment> {
    return present((await this.#calls.read(RPC.getAssignment, { host: this.host, name }, options)).assignment);
  }

  /** Removes the record of an assignment that holds nothing any more; the record as it was. */
  async forgetAssignment(name: string, options?: CallOptions): Promise<Assignment> {
    return present((await this.#calls.once(RPC.forgetAssignment, { host: this.host, name }, options)).assignment);
  }

  /** Which VMs, running or not, hold which devices. */
  async listHolders(
    options: ListOptions & { readonly devices?: readonly string[]; readonly vms?: readonly string[] } = {},
  ): Promise<Listing<Holder>> {
    const request = { host: this.host, devices: [...(options.devices ?? [])], vms: [...(options.vms ?? [])] };
    return this.#calls.list(RPC.listHolders, request, (page) => page.holders, options);
  }

  /**
   * Follows who holds what, for as long as the caller iterates.
   *
   * Starts at `resumeToken`, else with a snapshot, else (`changesOnly`) from now. On a `reset` forget everything: a
   * snapshot follows. Such a reset also comes from here, with revision 0, when an interruption leaves no token to resume
   * at. Throws when the first stream could not be opened, or the server refuses for good; everything else it survives.
   *
   * @example
   * for await (const { event } of client.watchHolders({ vms: ["alpha"] })) {
   *   if (event.case === "changeBatch") for (const { kind, holder } of event.value.changes) console.log(kind, holder?.device);
   * }
   */
  watchHolders(
    options: WatchOptions & { readonly devices?: readonly string[]; readonly vms?: readonly string[] } = {},
  ): AsyncGenerator<v1.WatchHoldersResponse, void, undefined> {
    const { devices = [], vms = [] } = options;
    const lost = () => create(v1.WatchHoldersResponseSchema, { event: HISTORY_LOST });
    return this.#follow(RPC.watchHolders, { devices: [...devices], vms: [...vms] }, lost, options);
  }

  /** Follows the devices, or those that match; everything else as in `watchHolders`. */
  watchDevices(
    filter?: DeviceFilterInit,
    options: WatchOptions = {},
  ): AsyncGenerator<v1.WatchDevicesResponse, void, undefined> {
    const lost = () => create(v1.WatchDevicesResponseSchema, { event: HISTORY_LOST });
    return this.#follow(RPC.watchDevices, filter ? { filter } : {}, lost, options);
  }

  // --- virtual functions and mediated devices

  /** Sets how many virtual functions a physical one has; the physical function. */
  async setVirtualFunctions(device: string, count: number, options?: CallOptions): Promise<Device> {
    const request = { host: this.host, device, count };
    return present((await this.#calls.once(ADMIN_RPC.setVirtualFunctions, request, options)).device);
  }

  /** Makes a mediated device of one of the parent's types. */
  async createMediatedDevice(
    parent: string,
    typeId: string,
    options: CallOptions & {
      readonly uuid?: string;
      readonly attributes?: Readonly<Record<string, string>>;
      readonly persistent?: boolean;
    } = {},
  ): Promise<Device> {
    const { uuid, attributes = {}, persistent = false } = options;
    const request = {
      host: this.host,
      parent,
      typeId,
      attributes: { ...attributes },
      persistent,
      ...(uuid && { uuid }),
    };
    return present((await this.#calls.once(ADMIN_RPC.createMediatedDevice, request, options)).device);
  }

  /** Removes a mediated device. */
  async deleteMediatedDevice(device: string, options?: CallOptions): Promise<void> {
    await this.#calls.once(ADMIN_RPC.deleteMediatedDevice, { host: this.host, device }, options);
  }

  #follow<I extends DescMessage, M extends Message & WatchMessage>(
    method: DescMethodServerStreaming<I, GenMessage<M>>,
    what: MessageInitShape<I>,
    lost: () => M,
    options: WatchOptions,
  ): AsyncGenerator<M, void, undefined> {
    const bookmarkInterval = durationFromMs(options.bookmarkIntervalMs ?? DEFAULT_BOOKMARK_INTERVAL_MS);
    const open = (resumeToken: string, changesOnly: boolean, signal: AbortSignal) =>
      this.#calls.stream(method, { ...what, host: this.host, bookmarkInterval, resumeToken, changesOnly }, signal);
    const signal = this.#calls.untilClosed(options.signal);
    return follow<M>({ method: method.name, open, lost }, { ...options, signal });
  }
}

function answerWithin(waitMs: number, { signal }: WaitOptions): CallOptions {
  return { timeoutMs: waitMs + GRACE_MS, ...(signal && { signal }) };
}

const HISTORY_LOST = { case: "reset", value: { reason: v1.ResetReason.HISTORY_LOST } } as const;

function present<T>(resource: T | undefined): T {
  if (resource === undefined) throw new HostdevError(new ConnectError("the answer is empty", Code.Internal));
  return resource;
}
