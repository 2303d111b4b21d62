package hostdev

import (
	"context"
	"errors"
	"regexp"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/hostdevd/hostdevd/clients/go/hostdev/v1"
)

const (
	attaching   = pb.AssignmentState_ASSIGNMENT_STATE_ATTACHING
	attached    = pb.AssignmentState_ASSIGNMENT_STATE_ATTACHED
	rollingBack = pb.AssignmentState_ASSIGNMENT_STATE_ROLLING_BACK
	detaching   = pb.AssignmentState_ASSIGNMENT_STATE_DETACHING
	detached    = pb.AssignmentState_ASSIGNMENT_STATE_DETACHED
)

type (
	attaches = []func(context.Context, *pb.AttachRequest) (*pb.AttachResponse, error)
	detaches = []func(*pb.DetachRequest) (*pb.DetachResponse, error)
)

func answer(state pb.AssignmentState) func(context.Context, *pb.AttachRequest) (*pb.AttachResponse, error) {
	return func(_ context.Context, request *pb.AttachRequest) (*pb.AttachResponse, error) {
		return &pb.AttachResponse{Assignment: &pb.Assignment{Name: request.GetRequestId(), State: state}}, nil
	}
}

func refused(err error) func(context.Context, *pb.AttachRequest) (*pb.AttachResponse, error) {
	return func(context.Context, *pb.AttachRequest) (*pb.AttachResponse, error) { return nil, err }
}

func detachAnswer(state pb.AssignmentState, err error) func(*pb.DetachRequest) (*pb.DetachResponse, error) {
	return func(*pb.DetachRequest) (*pb.DetachResponse, error) {
		return &pb.DetachResponse{Assignment: &pb.Assignment{Name: "a-1", State: state}}, err
	}
}

var uuid = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

func TestAnAttachIsRepeatedWithOneRequestIDUntilItIsDone(t *testing.T) {
	server := &fake{attaches: attaches{
		refused(refusal(codes.Unavailable, "SHUTTING_DOWN", "later")), // an answer that was lost
		answer(attaching), answer(rollingBack), answer(attached),
	}}
	request := &pb.AttachRequest{Vm: "web", Device: "pci_1"}
	done, err := serve(t, server).Attach(t.Context(), request)
	if err != nil || done.GetAssignment().GetState() != attached {
		t.Fatal(done, err)
	}
	asked := requests[*pb.AttachRequest](server)
	for _, one := range asked {
		if !uuid.MatchString(one.GetRequestId()) || one.GetRequestId() != asked[0].GetRequestId() || one.GetVm() != "web" {
			t.Errorf("%v after %v", one, asked[0])
		}
	}
	if len(asked) != 4 || request.GetRequestId() != "" || NewRequestID() == NewRequestID() {
		t.Error(asked, request)
	}
}

func TestTheCallersRequestIDIsKept(t *testing.T) {
	server := &fake{attaches: attaches{answer(attached)}}
	done, err := serve(t, server).Attach(t.Context(), &pb.AttachRequest{RequestId: "mine"})
	if err != nil || done.GetAssignment().GetName() != "mine" {
		t.Error(done, err)
	}
}

func TestADryRunHasNoRequestID(t *testing.T) {
	server := &fake{attaches: attaches{func(context.Context, *pb.AttachRequest) (*pb.AttachResponse, error) {
		return &pb.AttachResponse{Plan: &pb.Plan{}}, nil
	}}}
	if _, err := serve(t, server).Attach(t.Context(), &pb.AttachRequest{ValidateOnly: true}); err != nil {
		t.Fatal(err)
	}
	if asked := requests[*pb.AttachRequest](server); len(asked) != 1 || asked[0].GetRequestId() != "" {
		t.Error(asked)
	}
}

func TestARefusedAttachIsAnErrorAtOnce(t *testing.T) {
	server := &fake{attaches: attaches{
		answer(attaching), refused(refusal(codes.FailedPrecondition, "ATTACH_FAILED", "no")), answer(attached),
	}}
	done, err := serve(t, server).Attach(t.Context(), &pb.AttachRequest{})
	if ReasonOf(err) != pb.ErrorReason_ERROR_REASON_ATTACH_FAILED || done.GetAssignment().GetState() != attaching {
		t.Error(done, err)
	}
}

func TestARequestWithAWaitIsSentOnce(t *testing.T) {
	server := &fake{attaches: attaches{answer(attaching), refused(refusal(codes.Unavailable, "SHUTTING_DOWN", "later"))}}
	client := serve(t, server)
	request := &pb.AttachRequest{Wait: durationpb.New(0)}
	if done, err := client.Attach(t.Context(), request); err != nil || done.GetAssignment().GetState() != attaching {
		t.Error(done, err)
	}
	if _, err := client.Attach(t.Context(), request); ReasonOf(err) != pb.ErrorReason_ERROR_REASON_SHUTTING_DOWN {
		t.Error(err)
	}
}

func TestWhenTheContextIsAboutToEndTheStateReachedIsTheAnswer(t *testing.T) {
	server := &fake{attaches: attaches{answer(attaching)}}
	ctx, cancel := context.WithTimeout(t.Context(), lastWait)
	defer cancel()
	done, err := serve(t, server).Attach(ctx, &pb.AttachRequest{})
	if err != nil || done.GetAssignment().GetState() != attaching {
		t.Error(done, err)
	}
}

func TestWhenTheCallerGivesUpBetweenCallsTheStateReachedIsTheAnswer(t *testing.T) {
	server := &fake{}
	ctx, cancel := context.WithCancel(t.Context())
	var waited pauses
	pacer := waited.pacer()
	pacer.sleep = func(context.Context, time.Duration) error { cancel(); return ctx.Err() }
	client := serve(t, server)
	server.attaches = attaches{answer(attaching)}
	done, err := repeated(ctx, pacer, nil, true, func() (*pb.AttachResponse, error) {
		return client.Service.Attach(ctx, &pb.AttachRequest{})
	})
	if err != nil || done.GetAssignment().GetState() != attaching {
		t.Error(done, err)
	}
}

func TestNobodyWhoAnswersIsGivenUp(t *testing.T) {
	var waited pauses
	calls := 0
	_, err := repeated(t.Context(), waited.pacer(), nil, true, func() (*pb.AttachResponse, error) {
		calls++
		return nil, errorOf(refusal(codes.Unavailable, "SHUTTING_DOWN", "later"), "/s/Attach")
	})
	var failed *Error
	if !errors.As(err, &failed) || calls != maxUnanswered || len(waited) != maxUnanswered-1 {
		t.Error(calls, waited, err)
	}
}

func TestADetachGoesOnByAssignment(t *testing.T) {
	later := refusal(codes.Unavailable, "SHUTTING_DOWN", "later")
	server := &fake{detaches: detaches{detachAnswer(detaching, nil), detachAnswer(0, later), detachAnswer(detached, nil)}}
	done, err := serve(t, server).Detach(t.Context(), &pb.DetachRequest{Vm: "web", Device: "pci_1", Scope: pb.Scope_SCOPE_LIVE})
	if err != nil || done.GetAssignment().GetState() != detached {
		t.Fatal(done, err)
	}
	asked := requests[*pb.DetachRequest](server)
	if len(asked) != 3 || asked[0].GetVm() != "web" || asked[0].GetAssignment() != "" {
		t.Fatal(asked)
	}
	for _, one := range asked[1:] {
		if one.GetAssignment() != "a-1" || one.GetVm() != "" || one.GetDevice() != "" || one.GetScope() != pb.Scope_SCOPE_LIVE {
			t.Error(one)
		}
	}
}

func TestADetachByDeviceIsNotRepeatedBlindly(t *testing.T) {
	later := refusal(codes.Unavailable, "SHUTTING_DOWN", "later")
	server := &fake{detaches: detaches{detachAnswer(0, later), detachAnswer(0, later), detachAnswer(detached, nil)}}
	client := serve(t, server)
	if _, err := client.Detach(t.Context(), &pb.DetachRequest{Vm: "web", Device: "pci_1"}); err == nil {
		t.Error("it was repeated")
	}
	done, err := client.Detach(t.Context(), &pb.DetachRequest{Assignment: "a-1"})
	if err != nil || done.GetAssignment().GetState() != detached {
		t.Error(done, err)
	}
}
