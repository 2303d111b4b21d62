package hostdev

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/hostdevd/hostdevd/clients/go/hostdev/v1"
)

func failure(t *testing.T, answer error) *Error {
	t.Helper()
	client := serve(t, &fake{getHost: []error{answer, answer, answer}})
	_, err := client.Service.GetHost(t.Context(), &pb.GetHostRequest{})
	var failed *Error
	if !errors.As(fmt.Errorf("wrapped: %w", err), &failed) {
		t.Fatalf("%T: %v", err, err)
	}
	return failed
}

func TestARefusalTellsAllThatItsDetailsSay(t *testing.T) {
	failed := failure(t, refusal(codes.FailedPrecondition, "HELD_BY_OTHER_VM", "db holds it",
		&pb.Reason{
			Code: pb.ErrorReason_ERROR_REASON_HELD_BY_OTHER_VM, Subject: "db", Message: "db holds it", Remedy: "Detach it.",
		},
		&errdetails.PreconditionFailure{Violations: []*errdetails.PreconditionFailure_Violation{{Type: "HELD_BY_OTHER_VM"}}},
		&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "vm"}}},
		&errdetails.RetryInfo{RetryDelay: durationpb.New(1500 * time.Millisecond)},
	))
	if failed.Code != codes.FailedPrecondition || failed.Method != "GetHost" || failed.Message != "db holds it" {
		t.Errorf("%+v", failed)
	}
	if ReasonOf(failed) != pb.ErrorReason_ERROR_REASON_HELD_BY_OTHER_VM || failed.ReasonName != "HELD_BY_OTHER_VM" {
		t.Errorf("%v, %q", ReasonOf(failed), failed.ReasonName)
	}
	if failed.Metadata["vm_name"] != "db" || failed.RetryAfter != 1500*time.Millisecond {
		t.Errorf("%+v", failed)
	}
	if len(failed.Reasons) != 1 || failed.Reasons[0].GetRemedy() != "Detach it." {
		t.Errorf("%v", failed.Reasons)
	}
	if len(failed.FieldViolations) != 1 || failed.FieldViolations[0].GetField() != "vm" {
		t.Errorf("%v", failed.FieldViolations)
	}
	if failed.Error() != "HELD_BY_OTHER_VM: db holds it" || failed.Unreachable() {
		t.Error(failed)
	}
	if status.Code(failed) != codes.FailedPrecondition || len(status.Convert(failed).Details()) != 5 {
		t.Errorf("gRPC's own functions read %v", status.Convert(failed).Details())
	}
}

func TestWhereOnlyPreconditionsAreLeftTheyAreTheReasons(t *testing.T) {
	failed := failure(t, refusal(codes.FailedPrecondition, "DEVICE_NOT_ELIGIBLE", "no",
		&errdetails.PreconditionFailure{Violations: []*errdetails.PreconditionFailure_Violation{
			{Type: "HELD_BY_OTHER_VM", Subject: "db", Description: "db holds it"},
			{Type: "OF_LATER_VERSIONS", Subject: "x"},
		}},
	))
	if len(failed.Reasons) != 2 || failed.Reasons[0].GetCode() != pb.ErrorReason_ERROR_REASON_HELD_BY_OTHER_VM ||
		failed.Reasons[0].GetMessage() != "db holds it" ||
		failed.Reasons[1].GetCode() != pb.ErrorReason_ERROR_REASON_UNSPECIFIED {
		t.Errorf("%v", failed.Reasons)
	}
}

func TestAReasonOfLaterVersionsKeepsItsName(t *testing.T) {
	failed := failure(t, refusal(codes.Aborted, "OF_LATER_VERSIONS", "?"))
	if failed.Reason != pb.ErrorReason_ERROR_REASON_UNSPECIFIED || failed.ReasonName != "OF_LATER_VERSIONS" {
		t.Errorf("%+v", failed)
	}
}

func TestAnErrorThatIsNotHostdevdsHasNoReason(t *testing.T) {
	foreign, _ := status.New(codes.Internal, "proxy").WithDetails(
		&errdetails.ErrorInfo{Reason: "HELD_BY_OTHER_VM", Domain: "elsewhere"},
	)
	failed := failure(t, foreign.Err())
	if ReasonOf(failed) != pb.ErrorReason_ERROR_REASON_UNSPECIFIED || failed.Error() != "Internal: proxy" {
		t.Error(failed)
	}
	if ReasonOf(errors.New("other")) != pb.ErrorReason_ERROR_REASON_UNSPECIFIED || ReasonOf(nil) != 0 {
		t.Error("other errors have no reason")
	}
}

func TestWhenNobodyAnswersAfterAllRepetitionsTheServersWordsAreLeft(t *testing.T) {
	failed := failure(t, refusal(codes.Unavailable, "LIBVIRT_DISCONNECTED", "libvirt is away"))
	if !failed.Unreachable() || failed.Error() != "LIBVIRT_DISCONNECTED: libvirt is away" {
		t.Error(failed)
	}
}

func TestTheContextsErrorsAreKnown(t *testing.T) {
	client := serve(t, &fake{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := client.Service.GetHost(ctx, &pb.GetHostRequest{})
	if !errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
