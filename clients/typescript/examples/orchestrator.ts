/**
 * Gives a free network card to a VM, sees it arrive, takes it back and sees it gone.
 *
 *     node dist/examples/orchestrator.js [ADDRESS] [--vm alpha]
 */

import { parseArgs } from "node:util";
import { HostdevClient, HostdevError } from "../src/index.js";
import { AssignmentState, PlanStepKind, Scope, type Assignment } from "../src/gen/hostdev/v1/assignment_pb.js";
import { AffectedDeviceRole } from "../src/gen/hostdev/v1/device_pb.js";
import { HolderRole, type Holder } from "../src/gen/hostdev/v1/holder_pb.js";
import { ChangeKind, type EligibleDevice, type WatchHoldersResponse } from "../src/gen/hostdev/v1/service_pb.js";

async function orchestrate(client: HostdevClient, vm: string): Promise<void> {
  const { device, affected } = await firstNetworkCard(client);
  if (!device) throw new Error("no network card is free");
  const className = device.detail.case === "pci" ? device.detail.value.className : undefined;
  console.log(`device ${device.name} (${className ?? ""})`);
  const losses = affected.map(({ name, role }) => `${name} ${AffectedDeviceRole[role]}`).sort();
  console.log(losses.length > 0 ? `affected ${losses.length}: ${losses.join(", ")}` : "affected 0");

  const { plan } = await client.attach(vm, device.name, { scope: Scope.LIVE, validateOnly: true });
  if (plan?.blockers.length)
    throw new Error(plan.blockers.map((blocker) => `${blocker.message}: ${blocker.remedy}`).join("\n"));
  console.log(`plan: ${(plan?.steps ?? []).map((step) => `${PlanStepKind[step.kind]} ${step.device}`).join("; ")}`);

  // The token of before: whatever the attach changes, the watch tells.
  const { resumeToken } = await client.listHolders({ vms: [vm] });
  // Nobody may lose more than was shown above.
  const expectedAffected = affected.map(({ uid }) => uid);
  const { assignment } = await client.attach(vm, device.name, { scope: Scope.LIVE, expectedAffected });
  if (assignment?.state !== AssignmentState.ATTACHED) throw new Error(`${device.name} is not attached yet`);
  console.log(`attached: ${assignment.devices.map(describe).sort().join(", ")}`);

  const watch = client.watchHolders({ vms: [vm], resumeToken });
  const names = assignment.devices.map(({ name }) => name).sort();
  const view = new Map<string, Seen>();
  await follow(watch, view, () =>
    names.every((name) => view.get(name)?.kind === "UPSERT" && view.get(name)?.holder.live),
  );
  console.log(`seen: ${names.map((name) => `${view.get(name)?.kind} ${name} live`).join(", ")}`);

  const detached = await client.detach({ assignment: assignment.name });
  console.log(`detached: ${AssignmentState[detached.assignment?.state ?? AssignmentState.UNSPECIFIED]}`);

  await follow(watch, view, () => names.every((name) => view.get(name)?.kind !== "UPSERT"));
  console.log(`gone: ${names.map((name) => `${view.get(name)?.kind ?? "REMOVE"} ${name}`).join(", ")}`);
  await watch.return();
}

async function firstNetworkCard(
  client: HostdevClient,
): Promise<Partial<EligibleDevice> & Pick<EligibleDevice, "affected">> {
  for await (const found of await client.listEligible({ types: ["pci"], pciClasses: ["02"] }, { availableOnly: true }))
    return found;
  return { affected: [] };
}

function describe({ name, role, currentDriver, originalDriver }: Assignment["devices"][number]): string {
  return `${name} ${HolderRole[role]} ${currentDriver ?? ""}<-${originalDriver ?? ""}`;
}

interface Seen {
  readonly kind: "UPSERT" | "REMOVE";
  readonly holder: Holder;
}

/** Reads on until `done`, and keeps in `view` what was last told of each device. */
async function follow(
  watch: AsyncGenerator<WatchHoldersResponse>,
  view: Map<string, Seen>,
  done: () => boolean,
): Promise<void> {
  let inSnapshot = false; // A view that is half there tells nothing of what is gone.
  while (inSnapshot || !done()) {
    const { value: message } = await watch.next();
    switch (message?.event.case) {
      case "reset":
        view.clear();
        inSnapshot = true;
        break;
      case "snapshot":
        for (const holder of message.event.value.holders) view.set(holder.device, { kind: "UPSERT", holder });
        break;
      case "changeBatch":
        for (const { kind, holder } of message.event.value.changes) {
          if (holder) view.set(holder.device, { kind: kind === ChangeKind.REMOVE ? "REMOVE" : "UPSERT", holder });
        }
        break;
      case "bookmark":
        inSnapshot = false;
    }
  }
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { vm: { type: "string", default: "alpha" } },
});
const client = new HostdevClient(positionals[0]);
try {
  await orchestrate(client, values.vm);
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  if (error instanceof HostdevError)
    for (const { subject, message, remedy } of error.reasons) console.error(`  ${subject}: ${message}. ${remedy}`);
  process.exitCode = 1;
} finally {
  client.close();
}
