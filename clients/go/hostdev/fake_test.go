package hostdev

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"

	pb "github.com/hostdevd/hostdevd/clients/go/hostdev/v1"
)

type holderStream = grpc.ServerStreamingServer[pb.WatchHoldersResponse]

// fake gives canned answers, one after the other, and remembers what it was asked.
type fake struct {
	pb.UnimplementedHostDeviceServiceServer
	mu       sync.Mutex
	asked    []proto.Message
	deadline time.Duration // of the last call
	getHost  []error
	pages    map[string]*pb.ListDevicesResponse
	attaches []func(context.Context, *pb.AttachRequest) (*pb.AttachResponse, error)
	detaches []func(*pb.DetachRequest) (*pb.DetachResponse, error)
	watches  []func(*pb.WatchHoldersRequest, holderStream) error
}

// serve runs a fake until the test ends, and dials it.
func serve(t *testing.T, served *fake, options ...Option) *Client {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	pb.RegisterHostDeviceServiceServer(server, served)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	return dial(t, listener.Addr().String(), options...)
}

func dial(t *testing.T, address string, options ...Option) *Client {
	t.Helper()
	client, err := Dial(address, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func (f *fake) begin(ctx context.Context, request proto.Message) func() {
	f.mu.Lock()
	f.asked = append(f.asked, request)
	f.deadline = 0
	if deadline, bounded := ctx.Deadline(); bounded {
		f.deadline = time.Until(deadline)
	}
	return f.mu.Unlock
}

// next takes the first of what is left.
func next[Item any](items *[]Item) Item {
	first := (*items)[0]
	*items = (*items)[1:]
	return first
}

func requests[Request proto.Message](f *fake) (asked []Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, one := range f.asked {
		if request, ok := one.(Request); ok {
			asked = append(asked, request)
		}
	}
	return asked
}

func (f *fake) GetHost(ctx context.Context, request *pb.GetHostRequest) (*pb.GetHostResponse, error) {
	defer f.begin(ctx, request)()
	if len(f.getHost) > 0 {
		if err := next(&f.getHost); err != nil {
			return nil, err
		}
	}
	return &pb.GetHostResponse{Host: &pb.Host{Name: "kvm1"}}, nil
}

func (f *fake) ListDevices(ctx context.Context, request *pb.ListDevicesRequest) (*pb.ListDevicesResponse, error) {
	defer f.begin(ctx, request)()
	if page, ok := f.pages[request.GetPageToken()]; ok {
		return page, nil
	}
	return nil, refusal(codes.OutOfRange, "REVISION_COMPACTED", "the list is too old")
}

func (f *fake) Attach(ctx context.Context, request *pb.AttachRequest) (*pb.AttachResponse, error) {
	defer f.begin(ctx, request)()
	return next(&f.attaches)(ctx, request)
}

func (f *fake) Detach(ctx context.Context, request *pb.DetachRequest) (*pb.DetachResponse, error) {
	defer f.begin(ctx, request)()
	return next(&f.detaches)(request)
}

func (f *fake) WatchHolders(request *pb.WatchHoldersRequest, stream holderStream) error {
	unlock := f.begin(stream.Context(), request)
	watch := next(&f.watches)
	unlock()
	return watch(request, stream)
}

func (f *fake) WatchDevices(request *pb.WatchDevicesRequest, stream grpc.ServerStreamingServer[pb.WatchDevicesResponse]) error {
	f.begin(stream.Context(), request)()
	stream.Send(&pb.WatchDevicesResponse{Event: &pb.WatchDevicesResponse_Snapshot_{
		Snapshot: &pb.WatchDevicesResponse_Snapshot{Devices: []*pb.Device{{Name: "pci_1"}}},
	}})
	return refusal(codes.PermissionDenied, "NOT_ALLOWED", "no more")
}

// refusal is an error as hostdevd makes it.
func refusal(code codes.Code, reason, message string, details ...proto.Message) error {
	refused := status.New(code, message)
	info := &errdetails.ErrorInfo{Reason: reason, Domain: "hostdevd", Metadata: map[string]string{"vm_name": "db"}}
	for _, detail := range append([]proto.Message{info}, details...) {
		refused, _ = refused.WithDetails(protoadapt.MessageV1Of(detail))
	}
	return refused.Err()
}

// pauses takes the place of sleeping.
type pauses []time.Duration

func (p *pauses) pacer() pacer {
	return pacer{
		sleep: func(ctx context.Context, d time.Duration) error {
			*p = append(*p, d)
			return ctx.Err()
		},
		chance: func() float64 { return 1 },
	}
}
