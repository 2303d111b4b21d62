// Command vectors replays a file of clients/vectors against a fresh simulated hostdevd: vectors ADDRESS FILE. It prints
// the differences of the first step that has some, and exits with 1 then.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/hostdevd/hostdevd/clients/go/hostdev"
	hostdevv1 "github.com/hostdevd/hostdevd/clients/go/hostdev/v1"
)

const timeout = 20 * time.Second

type vector struct {
	Steps []step `json:"steps"`
}

type step struct {
	Call     string            `json:"call"`
	Request  any               `json:"request"`
	Response any               `json:"response"`
	Messages []any             `json:"messages"`
	Error    any               `json:"error"`
	Capture  map[string]string `json:"capture"`
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: vectors ADDRESS FILE")
		os.Exit(2)
	}
	differences, err := replay(os.Args[1], os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	for _, difference := range differences {
		fmt.Println(difference)
	}
	if len(differences) > 0 {
		os.Exit(1)
	}
}

func replay(address, file string) ([]string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var history vector
	if err := json.Unmarshal(text, &history); err != nil {
		return nil, err
	}
	if len(history.Steps) == 0 {
		return nil, errors.New(file + " has no steps")
	}
	client, err := hostdev.Dial(address)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	captured := map[string]string{}
	for number, step := range history.Steps {
		found, err := call(client.Conn(), step, filled(step.Request, captured))
		if err != nil {
			return nil, fmt.Errorf("step %d, %s: %w", number+1, step.Call, err)
		}
		if different := differences(filled(step.expected(), captured), found, ""); len(different) > 0 {
			for i := range different {
				different[i] = fmt.Sprintf("step %d, %s: %s", number+1, step.Call, different[i])
			}
			return different, nil // what follows builds on it
		}
		for name, path := range step.Capture {
			value, err := at(answerOf(found), path)
			if err != nil {
				return nil, fmt.Errorf("step %d, %s: %w", number+1, step.Call, err)
			}
			captured[name] = value
		}
	}
	return nil, nil
}

// expected is the outcome as call gives it.
func (s step) expected() map[string]any {
	outcome := map[string]any{}
	if s.Response != nil {
		outcome["response"] = s.Response
	}
	if s.Messages != nil {
		outcome["messages"] = s.Messages
	}
	if s.Error != nil {
		outcome["error"] = s.Error
	}
	return outcome
}

func answerOf(outcome map[string]any) any {
	if messages, ok := outcome["messages"]; ok {
		return messages
	}
	return outcome["response"]
}

// call makes the call that the step names, over the client's connection and so with its deadlines and errors.
func call(conn *grpc.ClientConn, step step, request any) (map[string]any, error) {
	method, err := methodOf(step.Call)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	sent, err := newMessage(method.Input())
	if err != nil {
		return nil, err
	}
	if err := protojson.Unmarshal(text, sent); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	path := fmt.Sprintf("/%s/%s", method.Parent().FullName(), method.Name())
	var messages []any
	if method.IsStreamingServer() {
		messages, err = first(ctx, conn, path, sent, method.Output(), max(len(step.Messages), 1))
	} else {
		messages, err = single(ctx, conn, path, sent, method.Output())
	}
	var failed *hostdev.Error
	switch {
	case errors.As(err, &failed):
		shown, err := errorJSON(failed)
		return map[string]any{"error": shown}, err
	case err != nil:
		return nil, err
	case method.IsStreamingServer():
		return map[string]any{"messages": messages}, nil
	}
	return map[string]any{"response": messages[0]}, nil
}

func single(
	ctx context.Context, conn *grpc.ClientConn, path string, request proto.Message, kind protoreflect.MessageDescriptor,
) ([]any, error) {
	response, err := newMessage(kind)
	if err != nil {
		return nil, err
	}
	if err := conn.Invoke(ctx, path, request, response); err != nil {
		return nil, err
	}
	shown, err := asJSON(response)
	return []any{shown}, err
}

// first gives so many messages of a stream, and cancels it then: its context ends with the call.
func first(
	ctx context.Context, conn *grpc.ClientConn, path string, request proto.Message, kind protoreflect.MessageDescriptor,
	count int,
) ([]any, error) {
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, path)
	if err != nil {
		return nil, err
	}
	if err := stream.SendMsg(request); err != nil {
		return nil, err
	}
	if err := stream.CloseSend(); err != nil {
		return nil, err
	}
	var messages []any
	for range count {
		received, err := newMessage(kind)
		if err != nil {
			return nil, err
		}
		if err := stream.RecvMsg(received); err != nil {
			return nil, err
		}
		shown, err := asJSON(received)
		if err != nil {
			return nil, err
		}
		messages = append(messages, shown)
	}
	return messages, nil
}

func methodOf(name string) (protoreflect.MethodDescriptor, error) {
	service, method, _ := strings.Cut(name, ".")
	full := hostdevv1.File_hostdev_v1_service_proto.Package().Append(protoreflect.Name(service))
	if found := hostdevv1.File_hostdev_v1_service_proto.Services().ByName(full.Name()); found != nil {
		if described := found.Methods().ByName(protoreflect.Name(method)); described != nil {
			return described, nil
		}
	}
	return nil, fmt.Errorf("there is no %s", name)
}

func newMessage(kind protoreflect.MessageDescriptor) (proto.Message, error) {
	found, err := protoregistry.GlobalTypes.FindMessageByName(kind.FullName())
	if err != nil {
		return nil, err
	}
	return found.New().Interface(), nil
}

func asJSON(message proto.Message) (any, error) {
	text, err := protojson.Marshal(message)
	if err != nil {
		return nil, err
	}
	var shown any
	return shown, json.Unmarshal(text, &shown)
}

func errorJSON(failed *hostdev.Error) (any, error) {
	reasons := []any{}
	for _, reason := range failed.Reasons {
		shown, err := asJSON(reason)
		if err != nil {
			return nil, err
		}
		fields, _ := shown.(map[string]any)
		if code, ok := fields["code"].(string); ok {
			fields["code"] = strings.TrimPrefix(code, "ERROR_REASON_")
		}
		reasons = append(reasons, fields)
	}
	metadata := map[string]any{}
	for key, value := range failed.Metadata {
		metadata[key] = value
	}
	shown := map[string]any{"code": codeNames[failed.Code], "reason": failed.ReasonName, "metadata": metadata, "reasons": reasons}
	maps.DeleteFunc(shown, func(_ string, value any) bool {
		text, isText := value.(string)
		fields, isFields := value.(map[string]any)
		list, isList := value.([]any)
		return isText && text == "" || isFields && len(fields) == 0 || isList && len(list) == 0
	})
	return shown, nil
}

// gRPC's own names: Go's codes print others.
var codeNames = map[codes.Code]string{
	codes.Canceled:           "CANCELLED",
	codes.Unknown:            "UNKNOWN",
	codes.InvalidArgument:    "INVALID_ARGUMENT",
	codes.DeadlineExceeded:   "DEADLINE_EXCEEDED",
	codes.NotFound:           "NOT_FOUND",
	codes.AlreadyExists:      "ALREADY_EXISTS",
	codes.PermissionDenied:   "PERMISSION_DENIED",
	codes.ResourceExhausted:  "RESOURCE_EXHAUSTED",
	codes.FailedPrecondition: "FAILED_PRECONDITION",
	codes.Aborted:            "ABORTED",
	codes.OutOfRange:         "OUT_OF_RANGE",
	codes.Unimplemented:      "UNIMPLEMENTED",
	codes.Internal:           "INTERNAL",
	codes.Unavailable:        "UNAVAILABLE",
	codes.DataLoss:           "DATA_LOSS",
	codes.Unauthenticated:    "UNAUTHENTICATED",
}
