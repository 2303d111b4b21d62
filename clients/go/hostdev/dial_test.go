package hostdev

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/hostdevd/hostdevd/clients/go/hostdev/v1"
)

func TestAnAddressIsASocketOrHostAndPort(t *testing.T) {
	for address, target := range map[string]string{
		"unix:/run/h.sock": "unix:/run/h.sock",
		"127.0.0.1:5000":   "dns:///127.0.0.1:5000",
		"localhost:5000":   "dns:///localhost:5000",
		"[::1]:5000":       "dns:///[::1]:5000",
		"":                 DefaultAddress,
	} {
		t.Setenv(AddressVariable, "")
		if got := dial(t, address).Conn().Target(); got != target {
			t.Errorf("%q: %q", address, got)
		}
	}
	for _, address := range []string{"unix:", "host", "host:", "host:x", "host:70000", ":5000", "dns:///h:1", "http://h:1"} {
		if _, err := Dial(address, WithTLS(&tls.Config{})); err == nil {
			t.Errorf("%q was accepted", address)
		}
	}
}

func TestTheEnvironmentNamesTheAddress(t *testing.T) {
	t.Setenv(AddressVariable, "unix:/there")
	if got := dial(t, "").Conn().Target(); got != "unix:/there" {
		t.Error(got)
	}
	if got := dial(t, "unix:/here").Conn().Target(); got != "unix:/here" {
		t.Error(got)
	}
}

func TestAnotherMachineIsNotReachedInTheClear(t *testing.T) {
	for _, address := range []string{"192.0.2.7:5000", "kvm1.example:5000", "0.0.0.0:5000"} {
		if _, err := Dial(address); err == nil || !strings.Contains(err.Error(), "WithTLS") {
			t.Errorf("%s: %v", address, err)
		}
		dial(t, address, WithTLS(&tls.Config{}))
	}
}

func TestEveryRequestCarriesTheGuardUnlessItHasOne(t *testing.T) {
	served := &fake{
		pages:   map[string]*pb.ListDevicesResponse{"": {NextPageToken: "2"}, "2": {}},
		watches: []func(*pb.WatchHoldersRequest, holderStream) error{script(bookmark("t1"))},
	}
	client := serve(t, served, WithHost("kvm1"))
	mine := &pb.GetHostRequest{}
	client.Service.GetHost(t.Context(), mine)
	client.Service.GetHost(t.Context(), &pb.GetHostRequest{Host: "other"})
	listing, err := client.ListDevices(t.Context(), &pb.ListDevicesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	listing.Collect()
	for range client.WatchHolders(t.Context(), &pb.WatchHoldersRequest{}) {
		break
	}
	var hosts []string
	for _, request := range served.asked {
		hosts = append(hosts, request.(interface{ GetHost() string }).GetHost())
	}
	if got := strings.Join(hosts, " "); got != "kvm1 other kvm1 kvm1 kvm1" {
		t.Error(got)
	}
	if mine.GetHost() != "" {
		t.Error("the caller's request was changed")
	}
}

func TestCallsWithoutADeadlineGetOne(t *testing.T) {
	state := pb.AssignmentState_ASSIGNMENT_STATE_ATTACHED
	served := &fake{}
	client := serve(t, served, WithTimeout(7*time.Second))
	for want, call := range map[time.Duration]func(context.Context){
		7 * time.Second: func(ctx context.Context) { client.Service.GetHost(ctx, &pb.GetHostRequest{}) },
		62 * time.Second: func(ctx context.Context) {
			served.attaches = append(served.attaches, answer(state))
			client.Attach(ctx, &pb.AttachRequest{})
		},
		92 * time.Second: func(ctx context.Context) {
			served.attaches = append(served.attaches, answer(state))
			client.Service.Attach(ctx, &pb.AttachRequest{Wait: durationpb.New(90 * time.Second)})
		},
	} {
		call(t.Context())
		if got := served.deadline; got > want || got < want/2 {
			t.Errorf("%v, expected %v", got, want)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		call(ctx)
		cancel()
		if got := served.deadline; got < 30*time.Minute {
			t.Errorf("%v instead of the caller's hour", got)
		}
	}
}

func TestReadsAreTriedAgainAndChangesAreNot(t *testing.T) {
	away := refusal(codes.Unavailable, "LIBVIRT_DISCONNECTED", "libvirt is away")
	served := &fake{
		getHost: []error{away, away, nil},
		attaches: []func(context.Context, *pb.AttachRequest) (*pb.AttachResponse, error){
			func(context.Context, *pb.AttachRequest) (*pb.AttachResponse, error) { return nil, away },
		},
	}
	client := serve(t, served)
	if _, err := client.Service.GetHost(t.Context(), &pb.GetHostRequest{}); err != nil {
		t.Error(err)
	}
	if _, err := client.Service.Attach(t.Context(), &pb.AttachRequest{}); err == nil {
		t.Error("the stub itself repeated an attach")
	}
	if reads, changes := len(requests[*pb.GetHostRequest](served)), len(requests[*pb.AttachRequest](served)); reads != 3 || changes != 1 {
		t.Errorf("%d reads, %d changes", reads, changes)
	}
}

func TestTLSChecksBothSides(t *testing.T) {
	directory := t.TempDir()
	certificate, key := selfSigned(t, directory)
	config, err := TLSFiles(certificate, certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: config.Certificates, ClientCAs: config.RootCAs, ClientAuth: tls.RequireAndVerifyClientCert,
	})))
	pb.RegisterHostDeviceServiceServer(server, &fake{})
	go server.Serve(listener)
	t.Cleanup(server.Stop)

	call := func(config *tls.Config) error {
		_, err := dial(t, listener.Addr().String(), WithTLS(config)).Service.GetHost(t.Context(), &pb.GetHostRequest{})
		return err
	}
	if err := call(config); err != nil {
		t.Error(err)
	}
	anonymous, err := TLSFiles(certificate, "", "")
	if err != nil {
		t.Fatal(err)
	}
	if call(anonymous) == nil {
		t.Error("a client without a certificate was served")
	}
	trusting, err := TLSFiles("", certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	if call(trusting) == nil {
		t.Error("a server that no authority knows was called")
	}
	for _, wrong := range [][3]string{{key, "", ""}, {"/none", "", ""}, {"", certificate, ""}, {"", "", key}} {
		if _, err := TLSFiles(wrong[0], wrong[1], wrong[2]); err == nil {
			t.Errorf("%v was accepted", wrong)
		}
	}
}

func selfSigned(t *testing.T, directory string) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		KeyUsage:    x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, content []byte) string {
		path := filepath.Join(directory, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("certificate.pem", "CERTIFICATE", signed), write("key.pem", "PRIVATE KEY", encoded)
}
