// Package hostdev is a client of hostdevd, the service that hands a KVM host's devices to virtual machines and takes
// them back.
//
//	client, err := hostdev.Dial("unix:/run/hostdevd/hostdevd.sock")
//	…
//	defer client.Close()
//	eligible, err := client.ListEligible(ctx, &hostdevv1.ListEligibleRequest{AvailableOnly: true})
//	…
//	for found, err := range eligible.All() { … }
//	done, err := client.Attach(ctx, &hostdevv1.AttachRequest{Vm: "web", Device: "pci_0000_05_01_0"})
//
// Every failure of a call is an *Error. The messages are in package hostdevv1, and Client.Service and Client.Admin
// are the calls that need no more than a request: GetDevice, GetHost, SetVirtualFunctions.
package hostdev
