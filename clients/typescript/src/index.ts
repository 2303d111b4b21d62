/** Client of hostdevd: assigns a host's devices to virtual machines over gRPC. */

export { ADDRESS_VARIABLE, DEFAULT_ADDRESS, type TlsOptions } from "./address.js";
export {
  HostdevClient,
  type AttachOptions,
  type ChangeOptions,
  type ClientOptions,
  type DetachTarget,
  type DeviceFilterInit,
} from "./client.js";
export type { CallOptions, ListOptions, WaitOptions } from "./calls.js";
export { HostdevError, type Cause, type FieldViolation, type StatusName } from "./errors.js";
export { Listing } from "./listing.js";
export type { WatchOptions } from "./watch.js";
