package hostdev

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/hostdevd/hostdevd/clients/go/hostdev/v1"
)

type served = []func(*pb.WatchHoldersRequest, holderStream) error

func snapshot() *pb.WatchHoldersResponse {
	return &pb.WatchHoldersResponse{Revision: 3, Event: &pb.WatchHoldersResponse_Snapshot_{
		Snapshot: &pb.WatchHoldersResponse_Snapshot{Holders: []*pb.Holder{{Name: "h"}}},
	}}
}

func bookmark(token string) *pb.WatchHoldersResponse {
	return &pb.WatchHoldersResponse{
		Revision: 4, ResumeToken: token, Event: &pb.WatchHoldersResponse_Bookmark{Bookmark: &pb.Bookmark{}},
	}
}

func batch(token string) *pb.WatchHoldersResponse {
	return &pb.WatchHoldersResponse{Revision: 5, ResumeToken: token, Event: &pb.WatchHoldersResponse_ChangeBatch_{
		ChangeBatch: &pb.WatchHoldersResponse_ChangeBatch{Changes: []*pb.HolderChange{{}}},
	}}
}

func reset() *pb.WatchHoldersResponse {
	return &pb.WatchHoldersResponse{Revision: 6, Event: &pb.WatchHoldersResponse_Reset_{
		Reset_: &pb.Reset{Reason: pb.ResetReason_RESET_REASON_TOKEN_TOO_OLD},
	}}
}

// script sends messages and ends without a status.
func script(messages ...*pb.WatchHoldersResponse) func(*pb.WatchHoldersRequest, holderStream) error {
	return failing(nil, messages...)
}

func failing(err error, messages ...*pb.WatchHoldersResponse) func(*pb.WatchHoldersRequest, holderStream) error {
	return func(_ *pb.WatchHoldersRequest, stream holderStream) error {
		for _, message := range messages {
			stream.Send(message)
		}
		return err
	}
}

// silent says no more after the messages.
func silent(messages ...*pb.WatchHoldersResponse) func(*pb.WatchHoldersRequest, holderStream) error {
	return func(_ *pb.WatchHoldersRequest, stream holderStream) error {
		for _, message := range messages {
			stream.Send(message)
		}
		<-stream.Context().Done()
		return nil
	}
}

func gone(details ...*errdetails.RetryInfo) error {
	if len(details) > 0 {
		return refusal(codes.Unavailable, "SHUTTING_DOWN", "later", details[0])
	}
	return refusal(codes.Unavailable, "SHUTTING_DOWN", "shutting down")
}

func paced(p *pauses) WatchOption { return func(s *watchSettings) { s.pacer = p.pacer() } }

// events are the first so many messages' kinds, and the error after them as its text.
func events(messages iter.Seq2[*pb.WatchHoldersResponse, error], count int) string {
	var kinds []string
	for message, err := range messages {
		switch message.GetEvent().(type) {
		case *pb.WatchHoldersResponse_Snapshot_:
			kinds = append(kinds, "snapshot")
		case *pb.WatchHoldersResponse_Bookmark:
			kinds = append(kinds, "bookmark")
		case *pb.WatchHoldersResponse_ChangeBatch_:
			kinds = append(kinds, "batch")
		case *pb.WatchHoldersResponse_Reset_:
			kinds = append(kinds, "reset:"+strings.TrimPrefix(message.GetReset_().GetReason().String(), "RESET_REASON_"))
		default:
			kinds = append(kinds, err.Error())
		}
		if len(kinds) == count {
			break
		}
	}
	return strings.Join(kinds, " ")
}

func tokens(f *fake) string {
	var sent []string
	for _, request := range requests[*pb.WatchHoldersRequest](f) {
		sent = append(sent, request.GetResumeToken())
	}
	return strings.Join(sent, ",")
}

func expect(t *testing.T, what, want string) {
	t.Helper()
	if what != want {
		t.Errorf("%q, expected %q", what, want)
	}
}

func TestAWatchResumesAtTheLastProcessedToken(t *testing.T) {
	server := &fake{watches: served{
		failing(gone(), snapshot(), bookmark("t1"), batch("t2")), script(batch("t3")), script(batch("t4")),
	}}
	var waited pauses
	watch := serve(t, server).WatchHolders(t.Context(), &pb.WatchHoldersRequest{Vms: []string{"web"}}, paced(&waited))
	expect(t, events(watch, 5), "snapshot bookmark batch batch batch")
	expect(t, tokens(server), ",t2,t3")
	for _, request := range requests[*pb.WatchHoldersRequest](server) {
		if !slices.Equal(request.GetVms(), []string{"web"}) {
			t.Errorf("the filter became %v", request.GetVms())
		}
	}
	if !slices.Equal(waited, pauses{250 * time.Millisecond, 250 * time.Millisecond}) {
		t.Error(waited)
	}
}

func TestPausesGrowAndObeyTheServer(t *testing.T) {
	server := &fake{watches: served{
		failing(gone(), bookmark("t1")), failing(gone()), failing(gone()),
		failing(gone(&errdetails.RetryInfo{RetryDelay: durationpb.New(4 * time.Second)})),
		failing(gone(), bookmark("t2")), script(bookmark("t3")),
	}}
	var waited pauses
	expect(t, events(serve(t, server).WatchHolders(t.Context(), &pb.WatchHoldersRequest{}, paced(&waited)), 3),
		"bookmark bookmark bookmark")
	expect(t, tokens(server), ",t1,t1,t1,t1,t2")
	want := pauses{250, 500, 1000, 6000, 250}
	for i := range want {
		want[i] *= time.Millisecond
	}
	if !slices.Equal(waited, want) {
		t.Error(waited)
	}
}

func TestPausesHaveALimitAndChance(t *testing.T) {
	lucky := pacer{chance: func() float64 { return 0 }}
	unlucky := pacer{chance: func() float64 { return 1 }}
	for _, row := range []struct {
		pacer    pacer
		failures int
		asked    time.Duration
		want     time.Duration
	}{
		{lucky, 1, 0, 125 * time.Millisecond},
		{unlucky, 1, 0, 250 * time.Millisecond},
		{unlucky, 1000, 0, longestPause},
		{lucky, 1000, 0, longestPause / 2},
		{lucky, 1, time.Minute, time.Minute},
		{unlucky, 1, time.Minute, 90 * time.Second},
	} {
		if got := row.pacer.pause(row.failures, row.asked); got != row.want {
			t.Errorf("%v after %d failures, expected %v", got, row.failures, row.want)
		}
	}
}

func TestAnInterruptedSnapshotStartsOverWithAReset(t *testing.T) {
	server := &fake{watches: served{failing(gone(), snapshot()), script(snapshot(), bookmark("t1"))}}
	var waited pauses
	expect(t, events(serve(t, server).WatchHolders(t.Context(), &pb.WatchHoldersRequest{}, paced(&waited)), 4),
		"snapshot reset:HISTORY_LOST snapshot bookmark")
}

func TestATokenFromBeforeAResetIsNeverSentAgain(t *testing.T) {
	server := &fake{watches: served{
		failing(gone(), reset(), snapshot()), failing(gone(), snapshot(), bookmark("t9")), script(batch("t10")),
	}}
	var waited pauses
	request := &pb.WatchHoldersRequest{ResumeToken: "old", ChangesOnly: true}
	expect(t, events(serve(t, server).WatchHolders(t.Context(), request, paced(&waited)), 6),
		"reset:TOKEN_TOO_OLD snapshot reset:HISTORY_LOST snapshot bookmark batch")
	expect(t, tokens(server), "old,,t9")
	for i, request := range requests[*pb.WatchHoldersRequest](server) {
		if request.GetChangesOnly() != (i == 0) {
			t.Errorf("stream %d: %v", i, request)
		}
	}
	if request.GetResumeToken() != "old" {
		t.Error("the caller's request was changed")
	}
}

func TestThreeSilentIntervalsAreDeath(t *testing.T) {
	server := &fake{watches: served{silent(bookmark("t1")), script(bookmark("t2"))}}
	var waited pauses
	var told []string
	watch := serve(t, server).WatchHolders(t.Context(),
		&pb.WatchHoldersRequest{BookmarkInterval: durationpb.New(50 * time.Millisecond)}, paced(&waited),
		OnInterruption(func(err *Error, _ time.Duration) { told = append(told, err.Error()) }))
	expect(t, events(watch, 2), "bookmark bookmark")
	expect(t, tokens(server), ",t1")
	expect(t, strings.Join(told, ","), "Unavailable: no sign of life for 150ms")
}

func TestASlowReaderIsNotSilence(t *testing.T) {
	server := &fake{watches: served{script(bookmark("t1"), bookmark("t2"))}}
	watch := serve(t, server).WatchHolders(t.Context(),
		&pb.WatchHoldersRequest{BookmarkInterval: durationpb.New(50 * time.Millisecond)},
		OnInterruption(func(err *Error, _ time.Duration) { t.Error(err) }))
	seen := 0
	for _, err := range watch {
		if err != nil {
			t.Fatal(err)
		}
		if seen++; seen == 2 {
			break
		}
		time.Sleep(300 * time.Millisecond)
	}
}

func TestAWatchThatNeverBeganIsAnError(t *testing.T) {
	server := &fake{watches: served{failing(gone())}}
	expect(t, events(serve(t, server).WatchHolders(t.Context(), &pb.WatchHoldersRequest{}), 9),
		"SHUTTING_DOWN: shutting down")
}

func TestWhatTryingAgainDoesNotCureEndsTheWatch(t *testing.T) {
	refused := refusal(codes.PermissionDenied, "NOT_ALLOWED", "no")
	server := &fake{watches: served{failing(gone(), bookmark("t1")), failing(refused)}}
	var waited pauses
	expect(t, events(serve(t, server).WatchHolders(t.Context(), &pb.WatchHoldersRequest{}, paced(&waited)), 9),
		"bookmark NOT_ALLOWED: no")
}

func TestTheEndOfTheContextIsTheLastThing(t *testing.T) {
	server := &fake{watches: served{silent(bookmark("t1"))}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last error
	for _, err := range serve(t, server).WatchHolders(ctx, &pb.WatchHoldersRequest{}) {
		last = err
		cancel()
	}
	if !errors.Is(last, context.Canceled) {
		t.Error(last)
	}
}

func TestLeavingTheLoopEndsTheStream(t *testing.T) {
	ended := make(chan struct{})
	server := &fake{watches: served{func(_ *pb.WatchHoldersRequest, stream holderStream) error {
		stream.Send(bookmark("t1"))
		<-stream.Context().Done()
		close(ended)
		return nil
	}}}
	for range serve(t, server).WatchHolders(t.Context(), &pb.WatchHoldersRequest{}) {
		break
	}
	<-ended
}

func TestDevicesAreWatchedTheSameWay(t *testing.T) {
	server := &fake{}
	var kinds []string
	filter := &pb.DeviceFilter{Types: []string{"pci"}}
	for message, err := range serve(t, server).WatchDevices(t.Context(), &pb.WatchDevicesRequest{Filter: filter}) {
		if err != nil {
			kinds = append(kinds, err.Error())
		} else {
			kinds = append(kinds, message.GetSnapshot().GetDevices()[0].GetName())
		}
	}
	expect(t, strings.Join(kinds, " "), "pci_1 NOT_ALLOWED: no more")
	if asked := requests[*pb.WatchDevicesRequest](server); !slices.Equal(asked[0].GetFilter().GetTypes(), filter.GetTypes()) {
		t.Error(asked)
	}
}
