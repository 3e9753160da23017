// Package leyline is a client of Leyline's services: it starts runs on a trainer and watches them, and lists the policy
// versions of a registry.
//
//	connection, err := leyline.Dial("127.0.0.1:50051", leyline.Credentials{})
//	...
//	trainer := leyline.NewTrainer(connection)
//	run, err := trainer.Start(ctx, "", &leylinev1.RunSpec{Host: &leylinev1.HostSpec{Name: "simulator"}})
//	...
//	for event, err := range trainer.Watch(ctx, run.GetRunId(), 0) {
//		...
//	}
//
// A call takes as long as its context lets it; a server ends a unary call without a deadline after one of its own, a
// minute unless it was told otherwise. What a service refuses is an [*Error]. What stands in the contract and not here can
// be called with the stubs of package leylinev1 over the same connection.
package leyline

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"
)

const (
	// A run is silent while an interval trains, so a server that is gone is found by asking. Servers of this project admit
	// a ping every 5 seconds.
	pingAfter   = 30 * time.Second
	pingTimeout = 10 * time.Second
	// A service that comes back is found within two seconds; gRPC's own longest wait is two minutes.
	longestReconnectWait = 2 * time.Second
	connectTimeout       = 20 * time.Second
)

// Dial prepares a connection to one server; the first call makes it, and it is made again after every loss. Whoever dials
// closes it.
//
// The address is HOST:PORT, [IPV6]:PORT or unix:/absolute/path. Where the credentials have no token and the server is on this
// machine, the one is shown by which the services of `leyline up` know their user, if there is one. The error says which of
// the files cannot be used, or that the token would leave this machine in plain text.
func Dial(address string, credentials Credentials) (*grpc.ClientConn, error) {
	transport, err := credentials.transport()
	if err != nil {
		return nil, err
	}
	bearer, err := credentials.bearer(address)
	if err != nil {
		return nil, err
	}
	reconnect := backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: longestReconnectWait}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: connectTimeout}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingAfter, Timeout: pingTimeout, PermitWithoutStream: true}),
	}
	if bearer != nil {
		options = append(options, grpc.WithPerRPCCredentials(bearer))
	}
	return grpc.NewClient(address, options...)
}
