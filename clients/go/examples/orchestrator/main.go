// Command orchestrator gives a VM the first network device that can be had, and takes it back: find, dry run, attach,
// follow the holders until it is there, detach, follow until it is gone.
//
//	orchestrator [--vm VM] [ADDRESS]
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/hostdevd/hostdevd/clients/go/hostdev"
	pb "github.com/hostdevd/hostdevd/clients/go/hostdev/v1"
)

func main() {
	vm := flag.String("vm", "alpha", "the VM's name or UUID")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := orchestrate(ctx, flag.Arg(0), *vm); err != nil {
		fmt.Fprintln(os.Stderr, err)
		for refused := (*hostdev.Error)(nil); errors.As(err, &refused); err = nil {
			for _, reason := range refused.Reasons {
				fmt.Fprintf(os.Stderr, "  %s: %s %s\n", reason.GetSubject(), reason.GetMessage(), reason.GetRemedy())
			}
		}
		os.Exit(1)
	}
}

func orchestrate(ctx context.Context, address, vm string) error {
	client, err := hostdev.Dial(address)
	if err != nil {
		return err
	}
	defer client.Close()

	found, err := find(ctx, client)
	if err != nil {
		return err
	}
	device := found.GetDevice()
	fmt.Printf("device %s (%s)\n", device.GetName(), device.GetPci().GetClassName())
	fmt.Println(affectedLine(found.GetAffected()))

	// What the plan was made for is what the attach may take: else it is refused.
	request := &pb.AttachRequest{
		Vm: vm, Device: device.GetUid(), Scope: pb.Scope_SCOPE_LIVE, ValidateOnly: true,
		ExpectedAffected: &pb.ExpectedAffected{
			Uids: each(found.GetAffected(), (*pb.AffectedDevice).GetUid),
		},
	}
	dry, err := client.Attach(ctx, request)
	if err != nil {
		return err
	}
	if blockers := dry.GetPlan().GetBlockers(); len(blockers) > 0 {
		return fmt.Errorf("refused: %s", strings.Join(each(blockers, (*pb.Reason).GetMessage), " "))
	}
	fmt.Println("plan: " + strings.Join(each(dry.GetPlan().GetSteps(), func(step *pb.PlanStep) string {
		return strings.TrimPrefix(step.GetKind().String(), "PLAN_STEP_KIND_") + " " + step.GetDevice()
	}), "; "))

	// Listed before the attach, so that a watch from here tells all that it does.
	before, err := client.ListHolders(ctx, &pb.ListHoldersRequest{Vms: []string{vm}})
	if err != nil {
		return err
	}
	request.ValidateOnly = false
	attached, err := client.Attach(ctx, request)
	if err != nil {
		return err
	}
	assignment := attached.GetAssignment()
	if assignment.GetState() != pb.AssignmentState_ASSIGNMENT_STATE_ATTACHED {
		return fmt.Errorf("still %s", assignment.GetState())
	}
	devices := slices.SortedFunc(slices.Values(assignment.GetDevices()), func(a, b *pb.AssignmentDevice) int {
		return cmp.Compare(a.GetName(), b.GetName())
	})
	names := each(devices, (*pb.AssignmentDevice).GetName)
	fmt.Println("attached: " + strings.Join(each(devices, func(device *pb.AssignmentDevice) string {
		role := strings.TrimPrefix(device.GetRole().String(), "HOLDER_ROLE_")
		return fmt.Sprintf("%s %s %s<-%s", device.GetName(), role, device.GetCurrentDriver(), device.GetOriginalDriver())
	}), ", "))

	position, err := follow(ctx, client, vm, before.ResumeToken, names, func(change *pb.HolderChange) bool {
		return change.GetKind() == pb.ChangeKind_CHANGE_KIND_UPSERT && change.GetHolder().GetLive()
	})
	if err != nil {
		return err
	}
	fmt.Println("seen: " + strings.Join(each(names, func(name string) string { return "UPSERT " + name + " live" }), ", "))

	detached, err := client.Detach(ctx, &pb.DetachRequest{Assignment: assignment.GetName()})
	if err != nil {
		return err
	}
	state := detached.GetAssignment().GetState()
	fmt.Println("detached: " + strings.TrimPrefix(state.String(), "ASSIGNMENT_STATE_"))

	if _, err = follow(ctx, client, vm, position, names, func(change *pb.HolderChange) bool {
		return change.GetKind() == pb.ChangeKind_CHANGE_KIND_REMOVE
	}); err != nil {
		return err
	}
	fmt.Println("gone: " + strings.Join(each(names, func(name string) string { return "REMOVE " + name }), ", "))
	return nil
}

// find gives the first device that fits, in the API's order.
func find(ctx context.Context, client *hostdev.Client) (*pb.EligibleDevice, error) {
	eligible, err := client.ListEligible(ctx, &pb.ListEligibleRequest{
		Filter:        &pb.DeviceFilter{Types: []string{"pci"}, PciClasses: []string{"02"}},
		AvailableOnly: true,
	})
	if err != nil {
		return nil, err
	}
	for found, err := range eligible.All() {
		return found, err
	}
	return nil, errors.New("no network device can be had")
}

// follow watches the VM's holders from a token on until, for every device, the last change is as wanted; the token
// after that.
func follow(
	ctx context.Context, client *hostdev.Client, vm, token string, devices []string, wanted func(*pb.HolderChange) bool,
) (string, error) {
	done := map[string]bool{}
	request := &pb.WatchHoldersRequest{Vms: []string{vm}, ResumeToken: token}
	for message, err := range client.WatchHolders(ctx, request) {
		if err != nil {
			return "", err
		}
		if next := message.GetResumeToken(); next != "" {
			token = next
		}
		if message.GetReset_() != nil || message.GetSnapshot() != nil {
			return "", errors.New("the history that this follows is lost")
		}
		for _, change := range message.GetChangeBatch().GetChanges() {
			done[change.GetHolder().GetDevice()] = wanted(change)
		}
		if !slices.ContainsFunc(devices, func(device string) bool { return !done[device] }) {
			return token, nil
		}
	}
	return "", errors.New("the watch ended")
}

func affectedLine(affected []*pb.AffectedDevice) string {
	if len(affected) == 0 {
		return "affected 0"
	}
	told := each(affected, func(device *pb.AffectedDevice) string {
		return device.GetName() + " " + strings.TrimPrefix(device.GetRole().String(), "AFFECTED_DEVICE_ROLE_")
	})
	return fmt.Sprintf("affected %d: %s", len(told), strings.Join(slices.Sorted(slices.Values(told)), ", "))
}

func each[From, To any](items []From, change func(From) To) []To {
	changed := make([]To, len(items))
	for i, item := range items {
		changed[i] = change(item)
	}
	return changed
}
