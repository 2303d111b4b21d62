package hostdev

import (
	"slices"
	"testing"

	pb "github.com/hostdevd/hostdevd/clients/go/hostdev/v1"
)

func deviceNames(t *testing.T, listing *Listing[*pb.Device]) (names []string) {
	t.Helper()
	devices, err := listing.Collect()
	if err != nil {
		t.Fatal(err)
	}
	for _, device := range devices {
		names = append(names, device.GetName())
	}
	return names
}

func TestAListingFetchesAllPagesUpToTheEmptyToken(t *testing.T) {
	served := &fake{pages: map[string]*pb.ListDevicesResponse{
		"":  {Devices: []*pb.Device{{Name: "a"}, {Name: "b"}}, NextPageToken: "2", Revision: 7, ResumeToken: "at-7"},
		"2": {NextPageToken: "3", Revision: 7}, // an empty page is not the last
		"3": {Devices: []*pb.Device{{Name: "c"}}, Revision: 7},
	}}
	client := serve(t, served)
	filter := &pb.DeviceFilter{Types: []string{"pci"}}
	listing, err := client.ListDevices(t.Context(), &pb.ListDevicesRequest{Filter: filter, PageSize: 2})
	if err != nil {
		t.Fatal(err)
	}
	if listing.Revision != 7 || listing.ResumeToken != "at-7" || len(requests[*pb.ListDevicesRequest](served)) != 1 {
		t.Errorf("%+v", listing)
	}
	for range 2 { // again from the start
		if names := deviceNames(t, listing); !slices.Equal(names, []string{"a", "b", "c"}) {
			t.Error(names)
		}
	}
	for _, request := range requests[*pb.ListDevicesRequest](served) {
		if request.GetPageSize() != 2 || !slices.Equal(request.GetFilter().GetTypes(), filter.GetTypes()) {
			t.Errorf("a page was asked for with %v", request)
		}
	}
}

func TestALoopThatIsLeftFetchesNoMore(t *testing.T) {
	served := &fake{pages: map[string]*pb.ListDevicesResponse{"": {Devices: []*pb.Device{{Name: "a"}}, NextPageToken: "2"}}}
	listing, err := serve(t, served).ListDevices(t.Context(), &pb.ListDevicesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for range listing.All() {
		break
	}
	if asked := requests[*pb.ListDevicesRequest](served); len(asked) != 1 {
		t.Error(asked)
	}
}

func TestAPageThatIsGoneEndsTheList(t *testing.T) {
	served := &fake{pages: map[string]*pb.ListDevicesResponse{"": {Devices: []*pb.Device{{Name: "a"}}, NextPageToken: "old"}}}
	listing, err := serve(t, served).ListDevices(t.Context(), &pb.ListDevicesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := listing.Collect(); ReasonOf(err) != pb.ErrorReason_ERROR_REASON_REVISION_COMPACTED {
		t.Error(err)
	}
	if _, err := serve(t, &fake{}).ListDevices(t.Context(), &pb.ListDevicesRequest{}); err == nil {
		t.Error("a refusal of the first page is returned at once")
	}
}
