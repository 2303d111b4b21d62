package hostdev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	hostdevv1 "github.com/hostdevd/hostdevd/clients/go/hostdev/v1"
)

const (
	// DefaultBookmarkInterval is how often a watch shows a sign of life.
	DefaultBookmarkInterval = 15 * time.Second
	silentIntervals         = 3
)

// Codes that trying again does not cure.
var hopeless = map[codes.Code]bool{
	codes.InvalidArgument:    true,
	codes.NotFound:           true,
	codes.FailedPrecondition: true,
	codes.Unauthenticated:    true,
	codes.PermissionDenied:   true,
	codes.Unimplemented:      true,
}

// WatchOption changes how a watch goes on after interruptions.
type WatchOption func(*watchSettings)

type watchSettings struct {
	interrupted func(*Error, time.Duration)
	pacer       pacer
}

// OnInterruption tells f of each interruption and the pause that follows.
func OnInterruption(f func(err *Error, pause time.Duration)) WatchOption {
	return func(s *watchSettings) { s.interrupted = f }
}

// WatchHolders follows who holds what until the loop is left or ctx ends. It goes on by itself over lost connections,
// restarted servers, and streams that were silent for three bookmark intervals.
//
// It starts at the request's ResumeToken, of an earlier message or list, else with a snapshot, else (ChangesOnly) from
// now. A message counts as processed when the loop asks for the next one. After an interruption the watch resumes at
// the token of the last processed message, so nothing is missed; it may be repeated: handle messages so that a second
// time is harmless. On a reset forget everything: a snapshot follows. Such a reset also comes from here, with revision
// 0, when an interruption leaves no token to resume at.
//
// An error is the last thing it gives: the first stream could not be opened, the server refuses for good, or ctx
// ended.
func (c *Client) WatchHolders(
	ctx context.Context, request *hostdevv1.WatchHoldersRequest, options ...WatchOption,
) iter.Seq2[*hostdevv1.WatchHoldersResponse, error] {
	watch := watch[*hostdevv1.WatchHoldersResponse]{
		method:   "WatchHolders",
		token:    request.GetResumeToken(),
		interval: intervalOf(request.GetBookmarkInterval()),
		start: func(ctx context.Context, token string, snapshot bool) (receiver[*hostdevv1.WatchHoldersResponse], error) {
			asked := proto.CloneOf(request)
			asked.ResumeToken = token
			asked.ChangesOnly = request.GetChangesOnly() && !snapshot
			return c.Service.WatchHolders(ctx, asked)
		},
		lost: func() *hostdevv1.WatchHoldersResponse {
			return &hostdevv1.WatchHoldersResponse{Event: &hostdevv1.WatchHoldersResponse_Reset_{Reset_: historyLost()}}
		},
	}
	return watch.follow(ctx, options)
}

// WatchDevices follows the devices; everything else as in WatchHolders.
func (c *Client) WatchDevices(
	ctx context.Context, request *hostdevv1.WatchDevicesRequest, options ...WatchOption,
) iter.Seq2[*hostdevv1.WatchDevicesResponse, error] {
	watch := watch[*hostdevv1.WatchDevicesResponse]{
		method:   "WatchDevices",
		token:    request.GetResumeToken(),
		interval: intervalOf(request.GetBookmarkInterval()),
		start: func(ctx context.Context, token string, snapshot bool) (receiver[*hostdevv1.WatchDevicesResponse], error) {
			asked := proto.CloneOf(request)
			asked.ResumeToken = token
			asked.ChangesOnly = request.GetChangesOnly() && !snapshot
			return c.Service.WatchDevices(ctx, asked)
		},
		lost: func() *hostdevv1.WatchDevicesResponse {
			return &hostdevv1.WatchDevicesResponse{Event: &hostdevv1.WatchDevicesResponse_Reset_{Reset_: historyLost()}}
		},
	}
	return watch.follow(ctx, options)
}

// message is what the responses of all watches have in common.
type message interface {
	GetResumeToken() string
	GetReset_() *hostdevv1.Reset
}

type receiver[Message message] interface {
	Recv() (Message, error)
	grpc.ClientStream
}

// watch is what differs between watches.
type watch[Message message] struct {
	method   string
	token    string
	interval time.Duration
	start    func(ctx context.Context, token string, snapshot bool) (receiver[Message], error)
	lost     func() Message
}

func (w watch[Message]) follow(ctx context.Context, options []WatchOption) iter.Seq2[Message, error] {
	chosen := watchSettings{interrupted: func(*Error, time.Duration) {}, pacer: realPacer}
	for _, option := range options {
		option(&chosen)
	}
	return func(yield func(Message, error) bool) {
		token := w.token
		known := false // The caller has state that a snapshot alone would not clear.
		answered := false
		failures := 0
		for {
			// After an interruption without a token only a snapshot tells what was missed.
			mustReset := known && token == ""
			done := false
			err := w.receive(ctx, token, known, func(received Message) bool {
				answered, failures = true, 0
				isReset := received.GetReset_() != nil
				if mustReset && !isReset && !yield(w.lost(), nil) {
					done = true
					return false
				}
				mustReset, known = false, true
				if !yield(received, nil) {
					done = true
					return false
				}
				if isReset {
					// The old token must not come back: a restored server could grow up to it.
					token = ""
				}
				if next := received.GetResumeToken(); next != "" {
					token = next
				}
				return true
			})
			if done {
				return
			}
			if ctx.Err() != nil {
				err = readStatus(status.FromContextError(ctx.Err()), w.method)
			}
			if ctx.Err() != nil || !answered || hopeless[err.Code] {
				yield(*new(Message), err)
				return
			}
			failures++
			pause := chosen.pacer.pause(failures, err.RetryAfter)
			chosen.interrupted(err, pause)
			if ended := chosen.pacer.sleep(ctx, pause); ended != nil {
				yield(*new(Message), readStatus(status.FromContextError(ended), w.method))
				return
			}
		}
	}
}

// receive hands the messages of one stream on, until one is not wanted (nil) or the stream fails or falls silent.
func (w watch[Message]) receive(
	ctx context.Context, token string, snapshot bool, handle func(Message) bool,
) *Error {
	streaming, cancel := context.WithCancel(ctx)
	defer cancel()
	// Over a dead connection, waiting for the next message never ends by itself. The time that the caller takes
	// between two messages does not count.
	var silent atomic.Bool
	limit := silentIntervals * w.interval
	guard := time.AfterFunc(limit, func() {
		silent.Store(true)
		cancel()
	})
	defer guard.Stop()
	opened, err := w.start(streaming, token, snapshot)
	for err == nil {
		var received Message
		received, err = opened.Recv()
		guard.Stop()
		if err == nil {
			if !handle(received) {
				return nil
			}
			guard.Reset(limit)
		}
	}
	if silent.Load() && ctx.Err() == nil {
		text := fmt.Sprintf("no sign of life for %s", limit)
		return readStatus(status.New(codes.Unavailable, text), w.method)
	}
	if errors.Is(err, io.EOF) {
		// A server ends no watch without a status; a proxy in between may.
		return readStatus(status.New(codes.Unavailable, "the stream ended"), w.method)
	}
	return errorOf(err, w.method).(*Error)
}

func intervalOf(asked *durationpb.Duration) time.Duration {
	if asked != nil {
		return asked.AsDuration()
	}
	return DefaultBookmarkInterval
}

func historyLost() *hostdevv1.Reset {
	return &hostdevv1.Reset{Reason: hostdevv1.ResetReason_RESET_REASON_HISTORY_LOST}
}
