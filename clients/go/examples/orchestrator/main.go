// Command orchestrator gives a VM the first network device that can be had, and takes it back: find, dry run, attach,
// follow the holders until it is there, detach, follow until it is gone.
//
//	orchestrator [ADDRESS] [--vm VM]
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
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "orchestrator [ADDRESS] [--vm VM]; ADDRESS is HOSTDEV_ADDRESS when left out")
		flag.PrintDefaults()
	}
	flag.Parse()
	address := flag.Arg(0)
	if flag.NArg() > 1 { // the package stops at the address: what stands behind it counts as well
		_ = flag.CommandLine.Parse(flag.Args()[1:]) // ends the program when it does not know an option
		if flag.NArg() > 0 {
			flag.Usage()
			os.Exit(2)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := orchestrate(ctx, address, *vm); err != nil {
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

	// One watch after the other, the second where the first ended.
	holding := &holding{client: client, vm: vm, token: before.ResumeToken, live: map[string]bool{}}
	if err := holding.follow(ctx, func() bool { return every(names, holding.has) }); err != nil {
		return err
	}
	fmt.Println("seen: " + strings.Join(each(names, func(name string) string { return "UPSERT " + name + " live" }), ", "))

	detached, err := client.Detach(ctx, &pb.DetachRequest{Assignment: assignment.GetName()})
	if err != nil {
		return err
	}
	state := detached.GetAssignment().GetState()
	fmt.Println("detached: " + strings.TrimPrefix(state.String(), "ASSIGNMENT_STATE_"))

	if err := holding.follow(ctx, func() bool { return !slices.ContainsFunc(names, holding.has) }); err != nil {
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

// holding is what a VM has live, as of a position in the host's history.
type holding struct {
	client *hostdev.Client
	vm     string
	token  string
	live   map[string]bool
}

func (h *holding) has(device string) bool { return h.live[device] }

// follow watches until what the VM has is as wanted.
func (h *holding) follow(ctx context.Context, wanted func() bool) error {
	request := &pb.WatchHoldersRequest{Vms: []string{h.vm}, ResumeToken: h.token}
	for message, err := range h.client.WatchHolders(ctx, request) {
		if err != nil {
			return err
		}
		if message.GetReset_() != nil {
			clear(h.live) // a snapshot follows
		}
		for _, holder := range message.GetSnapshot().GetHolders() {
			h.live[holder.GetDevice()] = holder.GetLive()
		}
		for _, change := range message.GetChangeBatch().GetChanges() {
			holder := change.GetHolder()
			h.live[holder.GetDevice()] = change.GetKind() == pb.ChangeKind_CHANGE_KIND_UPSERT && holder.GetLive()
		}
		// Within a snapshot there is no token: what it has not told yet is not gone.
		if message.GetResumeToken() != "" {
			h.token = message.GetResumeToken()
			if wanted() {
				return nil
			}
		}
	}
	return errors.New("the watch ended") // it does not, without an error
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

func every(items []string, holds func(string) bool) bool {
	return !slices.ContainsFunc(items, func(item string) bool { return !holds(item) })
}

func each[From, To any](items []From, change func(From) To) []To {
	changed := make([]To, len(items))
	for i, item := range items {
		changed[i] = change(item)
	}
	return changed
}
