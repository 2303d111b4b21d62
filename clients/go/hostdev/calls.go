package hostdev

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	// How long the server waits when it is not told (Attach, Detach).
	defaultWait = 60 * time.Second
	// The server answers when the wait is over: the deadline only guards against its death.
	grace = 2 * time.Second
)

// interceptor is what all calls have in common: the guard, a deadline, and typed errors.
type interceptor struct {
	host    string
	timeout time.Duration
}

func (i interceptor) unary(
	ctx context.Context, method string, request, response any, conn *grpc.ClientConn,
	invoke grpc.UnaryInvoker, options ...grpc.CallOption,
) error {
	if _, bounded := ctx.Deadline(); !bounded {
		timeout := i.timeout
		if waiting, ok := request.(interface{ GetWait() *durationpb.Duration }); ok {
			timeout = waitOf(waiting) + grace
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	return errorOf(invoke(ctx, method, i.guarded(request), response, conn, options...), method)
}

func (i interceptor) stream(
	ctx context.Context, description *grpc.StreamDesc, conn *grpc.ClientConn, method string,
	open grpc.Streamer, options ...grpc.CallOption,
) (grpc.ClientStream, error) {
	opened, err := open(ctx, description, conn, method, options...)
	if err != nil {
		return nil, errorOf(err, method)
	}
	return &stream{opened, i, method}, nil
}

type stream struct {
	grpc.ClientStream
	interceptor interceptor
	method      string
}

func (s *stream) SendMsg(request any) error {
	return errorOf(s.ClientStream.SendMsg(s.interceptor.guarded(request)), s.method)
}

func (s *stream) RecvMsg(response any) error {
	return errorOf(s.ClientStream.RecvMsg(response), s.method)
}

// guarded is the request with the guard, unless it has one.
func (i interceptor) guarded(request any) any {
	message, ok := request.(proto.Message)
	if !ok || i.host == "" {
		return request
	}
	field := message.ProtoReflect().Descriptor().Fields().ByName("host")
	if field == nil || message.ProtoReflect().Get(field).String() != "" {
		return request
	}
	return withString(message, "host", i.host)
}

// withString is a copy of the message with another string in a field.
func withString[M proto.Message](message M, field protoreflect.Name, value string) M {
	changed := proto.CloneOf(message)
	fields := changed.ProtoReflect().Descriptor().Fields()
	changed.ProtoReflect().Set(fields.ByName(field), protoreflect.ValueOfString(value))
	return changed
}

func waitOf(request interface{ GetWait() *durationpb.Duration }) time.Duration {
	if wait := request.GetWait(); wait != nil {
		return wait.AsDuration()
	}
	return defaultWait
}
