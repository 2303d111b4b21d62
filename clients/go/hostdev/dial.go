package hostdev

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	hostdevv1 "github.com/hostdevd/hostdevd/clients/go/hostdev/v1"
)

const (
	// DefaultAddress is the local socket of hostdevd.
	DefaultAddress = "unix:/run/hostdevd/hostdevd.sock"
	// AddressVariable names the environment's variable that Dial asks when it is given no address.
	AddressVariable = "HOSTDEV_ADDRESS"
	// DefaultTimeout bounds calls without a deadline, other than Attach, Detach and watches.
	DefaultTimeout = 30 * time.Second

	// A page ends at 2 MiB, so this leaves room for one device of any size.
	maxMessageBytes = 4 << 20
)

// Reads are tried again when nobody answered. Attach and Detach are not among them: Client.Attach and Client.Detach
// repeat those, with a request id.
const serviceConfig = `{"methodConfig": [{
	"name": [
		{"service": "hostdev.v1.HostDeviceService", "method": "GetHost"},
		{"service": "hostdev.v1.HostDeviceService", "method": "ListDevices"},
		{"service": "hostdev.v1.HostDeviceService", "method": "GetDevice"},
		{"service": "hostdev.v1.HostDeviceService", "method": "ListEligible"},
		{"service": "hostdev.v1.HostDeviceService", "method": "ListGroups"},
		{"service": "hostdev.v1.HostDeviceService", "method": "GetGroup"},
		{"service": "hostdev.v1.HostDeviceService", "method": "ListAssignments"},
		{"service": "hostdev.v1.HostDeviceService", "method": "GetAssignment"},
		{"service": "hostdev.v1.HostDeviceService", "method": "ListHolders"}
	],
	"retryPolicy": {
		"maxAttempts": 3,
		"initialBackoff": "0.1s",
		"maxBackoff": "1s",
		"backoffMultiplier": 4,
		"retryableStatusCodes": ["UNAVAILABLE"]
	}
}]}`

// Client talks to one hostdevd. It may be shared between goroutines.
//
// Service and Admin are the bare stubs. Their calls, too, guard against reaching another host's server, have a
// deadline, and fail with an *Error.
type Client struct {
	Service hostdevv1.HostDeviceServiceClient
	Admin   hostdevv1.HostDeviceAdminServiceClient
	conn    *grpc.ClientConn
}

// Option changes how Dial connects.
type Option func(*settings)

type settings struct {
	host    string
	timeout time.Duration
	tls     *tls.Config
	more    []grpc.DialOption
}

// WithHost guards every call against reaching another host's server: a name or a UUID.
func WithHost(host string) Option { return func(s *settings) { s.host = host } }

// WithTimeout takes the place of DefaultTimeout.
func WithTimeout(timeout time.Duration) Option { return func(s *settings) { s.timeout = timeout } }

// WithTLS encrypts the connection. TLSFiles makes a configuration from files.
func WithTLS(config *tls.Config) Option { return func(s *settings) { s.tls = config } }

// WithDialOptions hands more options to gRPC, after the client's own.
func WithDialOptions(more ...grpc.DialOption) Option {
	return func(s *settings) { s.more = append(s.more, more...) }
}

// Dial makes a client of the hostdevd at address: unix:/path or host:port. Without an address it is the one in
// HOSTDEV_ADDRESS, else DefaultAddress. It connects with the first call.
//
// Without TLS only a socket or a loopback address will do: who can listen on the way can give devices away.
func Dial(address string, options ...Option) (*Client, error) {
	chosen := settings{timeout: DefaultTimeout}
	for _, option := range options {
		option(&chosen)
	}
	if address == "" {
		address = os.Getenv(AddressVariable)
	}
	if address == "" {
		address = DefaultAddress
	}
	target, local, err := parseAddress(address)
	if err != nil {
		return nil, err
	}
	transport := insecure.NewCredentials()
	if chosen.tls != nil {
		transport = credentials.NewTLS(chosen.tls)
	} else if !local {
		return nil, fmt.Errorf("hostdev: %s is another machine: give WithTLS", address)
	}
	calls := interceptor{host: chosen.host, timeout: chosen.timeout}
	conn, err := grpc.NewClient(target, append([]grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithDisableServiceConfig(), // one that DNS publishes is none of ours
		grpc.WithUnaryInterceptor(calls.unary),
		grpc.WithStreamInterceptor(calls.stream),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes)),
		// hostdevd allows a ping every 5 seconds, also while a call waits for a guest without a word.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		// A server that restarts is back within seconds: gRPC would wait for up to two minutes.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second,
			},
			MinConnectTimeout: 10 * time.Second,
		}),
		// A host's own service is reached directly, whatever proxy the environment names for the web.
		grpc.WithNoProxy(),
		grpc.WithUserAgent("hostdevd-client-go"),
	}, chosen.more...)...)
	if err != nil {
		return nil, fmt.Errorf("hostdev: %s: %w", address, err)
	}
	return &Client{
		Service: hostdevv1.NewHostDeviceServiceClient(conn),
		Admin:   hostdevv1.NewHostDeviceAdminServiceClient(conn),
		conn:    conn,
	}, nil
}

// Conn is the connection itself, for other services of the same server, such as gRPC's health service.
func (c *Client) Conn() *grpc.ClientConn { return c.conn }

// Close drops the connection. What the server is doing goes on.
func (c *Client) Close() error { return c.conn.Close() }

// parseAddress gives gRPC's target, and whether what goes there stays on this machine.
func parseAddress(address string) (target string, local bool, err error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok && path != "" {
		return address, true, nil
	}
	host, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil || host == "" || strings.ContainsAny(host, "/ ") {
		return "", false, fmt.Errorf("hostdev: %q is no address: give unix:/path or host:port", address)
	}
	ip := net.ParseIP(host)
	// Without a scheme, gRPC would take a host's name for one.
	return "dns:///" + address, host == "localhost" || ip != nil && ip.IsLoopback(), nil
}

// TLSFiles reads a configuration for WithTLS: the authorities that the server's certificate is checked against, and
// the client's own certificate with its key. Without authorities the system's are taken; certificate and key are
// both given or both empty.
func TLSFiles(authorities, certificate, key string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if authorities != "" {
		pem, err := os.ReadFile(authorities)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("hostdev: " + authorities + " holds no certificate")
		}
	}
	if certificate != "" || key != "" {
		own, err := tls.LoadX509KeyPair(certificate, key)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{own}
	}
	return config, nil
}
