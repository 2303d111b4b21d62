package hostdev

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	hostdevv1 "github.com/hostdevd/hostdevd/clients/go/hostdev/v1"
)

const (
	domain       = "hostdevd"
	reasonPrefix = "ERROR_REASON_"
)

// Error is every failure of a call, whatever its gRPC code. Programs decide by Code and Reason:
//
//	var refused *hostdev.Error
//	if errors.As(err, &refused) && refused.Reason == hostdevv1.ErrorReason_ERROR_REASON_HELD_BY_OTHER_VM { … }
//
// errors.Is(err, context.Canceled) and errors.Is(err, context.DeadlineExceeded) hold where the code says so.
type Error struct {
	// Code is gRPC's.
	Code codes.Code
	// Message is in English, for people.
	Message string
	// Reason is unspecified when the failure does not come from hostdevd itself (no connection, a proxy in between),
	// or when this client is too old to know it.
	Reason hostdevv1.ErrorReason
	// ReasonName is the reason as it was sent, HELD_BY_OTHER_VM, known to this client or not.
	ReasonName string
	// Metadata holds every value that the message mentions.
	Metadata map[string]string
	// Reasons are the causes, each with its subject and remedy.
	Reasons []*hostdevv1.Reason
	// FieldViolations are the fields of the request that are wrong.
	FieldViolations []*errdetails.BadRequest_FieldViolation
	// RetryAfter is how long the server asks to wait; 0 when it asks nothing.
	RetryAfter time.Duration
	// Method is the RPC: Attach.
	Method string

	status *status.Status
}

// ReasonOf is the reason of an *Error in err's tree, else unspecified.
func ReasonOf(err error) hostdevv1.ErrorReason {
	if refused := (*Error)(nil); errors.As(err, &refused) {
		return refused.Reason
	}
	return hostdevv1.ErrorReason_ERROR_REASON_UNSPECIFIED
}

func (e *Error) Error() string {
	name := e.ReasonName
	if name == "" {
		name = e.Code.String()
	}
	return name + ": " + e.Message
}

// GRPCStatus lets gRPC's own functions read the error, details included.
func (e *Error) GRPCStatus() *status.Status { return e.status }

// Is tells errors.Is of the context's errors.
func (e *Error) Is(target error) bool {
	return target == context.Canceled && e.Code == codes.Canceled ||
		target == context.DeadlineExceeded && e.Code == codes.DeadlineExceeded
}

// Unreachable tells that nobody answered, or not in time: the same call may work later.
func (e *Error) Unreachable() bool {
	return e.Code == codes.Unavailable || e.Code == codes.DeadlineExceeded
}

// errorOf makes an *Error of what gRPC returned. The end of a stream stays what it is.
func errorOf(err error, method string) error {
	if err == nil || err == io.EOF {
		return err
	}
	if known := (*Error)(nil); errors.As(err, &known) {
		return known
	}
	found := status.Convert(err)
	// Where gRPC tried again, the server's own words are further in.
	if inner := (interface{ GRPCStatus() *status.Status })(nil); errors.As(err, &inner) {
		found = inner.GRPCStatus()
	}
	return readStatus(found, method[strings.LastIndexByte(method, '/')+1:])
}

func readStatus(from *status.Status, method string) *Error {
	read := &Error{Code: from.Code(), Message: from.Message(), Method: method, status: from}
	var preconditions []*hostdevv1.Reason
	for _, detail := range from.Details() { // one that cannot be read is an error here, and left out
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.GetDomain() == domain {
				read.ReasonName = detail.GetReason()
				read.Reason = reasonNamed(read.ReasonName)
				read.Metadata = detail.GetMetadata()
			}
		case *hostdevv1.Reason:
			read.Reasons = append(read.Reasons, detail)
		case *errdetails.PreconditionFailure:
			for _, violation := range detail.GetViolations() {
				preconditions = append(preconditions, &hostdevv1.Reason{
					Code:    reasonNamed(violation.GetType()),
					Subject: violation.GetSubject(),
					Message: violation.GetDescription(),
				})
			}
		case *errdetails.BadRequest:
			read.FieldViolations = append(read.FieldViolations, detail.GetFieldViolations()...)
		case *errdetails.RetryInfo:
			read.RetryAfter = detail.GetRetryDelay().AsDuration()
		}
	}
	if read.Reasons == nil {
		// What a gateway that knows only google.rpc leaves of the reasons: all but the remedies.
		read.Reasons = preconditions
	}
	return read
}

func reasonNamed(name string) hostdevv1.ErrorReason {
	return hostdevv1.ErrorReason(hostdevv1.ErrorReason_value[reasonPrefix+name])
}
