package hostdev

import (
	"context"
	"iter"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	hostdevv1 "github.com/hostdevd/hostdevd/clients/go/hostdev/v1"
)

// Listing is one list, whose further pages are fetched on the way. All pages show Revision; a watch that starts at
// ResumeToken has no gap to the list.
type Listing[Item any] struct {
	Revision    uint64
	ResumeToken string
	all         iter.Seq2[Item, error]
}

// All gives the items in the API's order. An error is the last thing it gives; REVISION_COMPACTED, when a page token
// has expired (after 5 minutes, or a restart), means: list again.
func (l *Listing[Item]) All() iter.Seq2[Item, error] { return l.all }

// Collect gives all items at once.
func (l *Listing[Item]) Collect() ([]Item, error) {
	var items []Item
	for item, err := range l.all {
		if err != nil {
			return nil, err
		}
		items = append(items, item)
	}
	return items, nil
}

// ListDevices lists devices of every type, assignable or not.
func (c *Client) ListDevices(
	ctx context.Context, request *hostdevv1.ListDevicesRequest,
) (*Listing[*hostdevv1.Device], error) {
	return list(ctx, request, c.Service.ListDevices, (*hostdevv1.ListDevicesResponse).GetDevices)
}

// ListEligible lists the devices that can be assigned, each with what the host would lose.
func (c *Client) ListEligible(
	ctx context.Context, request *hostdevv1.ListEligibleRequest,
) (*Listing[*hostdevv1.EligibleDevice], error) {
	return list(ctx, request, c.Service.ListEligible, (*hostdevv1.ListEligibleResponse).GetEligibleDevices)
}

// ListGroups lists the groups of devices that can only be taken together.
func (c *Client) ListGroups(
	ctx context.Context, request *hostdevv1.ListGroupsRequest,
) (*Listing[*hostdevv1.Group], error) {
	return list(ctx, request, c.Service.ListGroups, (*hostdevv1.ListGroupsResponse).GetGroups)
}

// ListAssignments lists assignments, those closed within 30 days included.
func (c *Client) ListAssignments(
	ctx context.Context, request *hostdevv1.ListAssignmentsRequest,
) (*Listing[*hostdevv1.Assignment], error) {
	return list(ctx, request, c.Service.ListAssignments, (*hostdevv1.ListAssignmentsResponse).GetAssignments)
}

// ListHolders lists which VMs, running or not, hold which devices.
func (c *Client) ListHolders(
	ctx context.Context, request *hostdevv1.ListHoldersRequest,
) (*Listing[*hostdevv1.Holder], error) {
	return list(ctx, request, c.Service.ListHolders, (*hostdevv1.ListHoldersResponse).GetHolders)
}

// page is what the responses of all lists have in common.
type page interface {
	GetNextPageToken() string
	GetRevision() uint64
	GetResumeToken() string
}

// list fetches the first page at once, so that a refusal is returned by the call that lists.
func list[Request proto.Message, Page page, Item any](
	ctx context.Context, request Request,
	fetch func(context.Context, Request, ...grpc.CallOption) (Page, error), items func(Page) []Item,
) (*Listing[Item], error) {
	first, err := fetch(ctx, request)
	if err != nil {
		return nil, err
	}
	all := func(yield func(Item, error) bool) {
		for current := first; ; {
			for _, item := range items(current) {
				if !yield(item, nil) {
					return
				}
			}
			// A page may be empty or short without being the last: only the token tells.
			token := current.GetNextPageToken()
			if token == "" {
				return
			}
			next, err := fetch(ctx, withString(request, "page_token", token))
			if err != nil {
				yield(*new(Item), err)
				return
			}
			current = next
		}
	}
	return &Listing[Item]{first.GetRevision(), first.GetResumeToken(), all}, nil
}
