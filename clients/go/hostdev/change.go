package hostdev

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	hostdevv1 "github.com/hostdevd/hostdevd/clients/go/hostdev/v1"
)

const (
	// So many calls in a row that nobody answers, and Attach and Detach give up: about 8 seconds of pauses, in which
	// a server restarts.
	maxUnanswered = 6
	// The server answers 500 ms before the caller's deadline: with less than this left, repeating a call is only noise.
	lastWait = time.Second
)

// NewRequestID makes a UUID for AttachRequest.RequestId.
func NewRequestID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// Attach gives a device, with its group, to a VM, and waits for the result for as long as ctx lets it.
//
// It repeats the call while the assignment is ATTACHING or ROLLING_BACK, and when its answer was lost; the request id,
// which is made when there is none, lets a repeat join the work. Make one yourself (NewRequestID) where an error must
// not lose the assignment: it is the assignment's name. When ctx is about to end the state reached is returned, so
// look at it. The work goes on in the server.
//
// A request with a Wait is sent once and answered within that time.
func (c *Client) Attach(
	ctx context.Context, request *hostdevv1.AttachRequest, options ...grpc.CallOption,
) (*hostdevv1.AttachResponse, error) {
	if request.GetRequestId() == "" && !request.GetValidateOnly() {
		request = withString(request, "request_id", NewRequestID())
	}
	return repeated(ctx, realPacer, request.GetWait(), true, func() (*hostdevv1.AttachResponse, error) {
		return c.Service.Attach(ctx, request, options...)
	})
}

// Detach takes back from a VM what was attached together, and waits for the guest to let go for as long as ctx lets
// it. It repeats the call while the assignment is DETACHING, and, for a request by assignment, when its answer was
// lost; one by VM and device could take something else then. The rest is as for Attach.
func (c *Client) Detach(
	ctx context.Context, request *hostdevv1.DetachRequest, options ...grpc.CallOption,
) (*hostdevv1.DetachResponse, error) {
	byAssignment := request.GetAssignment() != ""
	return repeated(ctx, realPacer, request.GetWait(), byAssignment, func() (*hostdevv1.DetachResponse, error) {
		response, err := c.Service.Detach(ctx, request, options...)
		if name := response.GetAssignment().GetName(); err == nil && name != "" {
			// From here on it is this one, also when the VM gets the device again meanwhile.
			request = proto.CloneOf(request)
			request.Assignment, request.Vm, request.Device = name, "", ""
		}
		return response, err
	})
}

type changeResponse interface {
	comparable
	GetAssignment() *hostdevv1.Assignment
}

// repeated calls until the result is there, ctx is about to end, or nobody answers. Calls that the server has answered
// may be lost afterwards without harm; before, only if safe says so.
func repeated[Response changeResponse](
	ctx context.Context, pacer pacer, wait *durationpb.Duration, safe bool, call func() (Response, error),
) (Response, error) {
	var none, last Response
	unanswered := 0
	for {
		response, err := call()
		var failed *Error
		switch {
		case err == nil:
			last, safe, unanswered = response, true, 0
			if wait != nil || !inProgress[response.GetAssignment().GetState()] || !worthAnother(ctx) {
				return response, nil
			}
			// A server that answers at once must not be asked in a tight loop.
			err = pacer.sleep(ctx, pacer.pause(1, 0))
		case wait == nil && safe && worthAnother(ctx) && errors.As(err, &failed) && failed.Unreachable():
			unanswered++
			if unanswered >= maxUnanswered {
				return last, err
			}
			err = pacer.sleep(ctx, pacer.pause(unanswered, failed.RetryAfter))
		default:
			return last, err
		}
		if err != nil { // ctx ended
			if last != none {
				return last, nil
			}
			return last, err
		}
	}
}

var inProgress = map[hostdevv1.AssignmentState]bool{
	hostdevv1.AssignmentState_ASSIGNMENT_STATE_ATTACHING:    true,
	hostdevv1.AssignmentState_ASSIGNMENT_STATE_ROLLING_BACK: true,
	hostdevv1.AssignmentState_ASSIGNMENT_STATE_DETACHING:    true,
}

func worthAnother(ctx context.Context) bool {
	deadline, bounded := ctx.Deadline()
	return ctx.Err() == nil && (!bounded || time.Until(deadline) > lastWait)
}
