package leyline_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	leyline "leyline/clients/go"
	"leyline/clients/go/internal/golden"
	"leyline/clients/go/leylinev1"
)

func TestMain(m *testing.M) {
	// The token of this machine's user is not for tests.
	os.Setenv("XDG_STATE_HOME", os.DevNull)
	m.Run()
}

// lastEvent is the end of the run that the fake trainer has.
const lastEvent = 6

// trainer is a trainer with one run. It shows its events up to one, and then lets the watcher wait.
type trainer struct {
	leylinev1.UnimplementedTrainerServiceServer
	server *grpc.Server
	shows  uint64
	heard  []string
}

// GetRun hears what credentials the call carries.
func (f *trainer) GetRun(ctx context.Context, _ *leylinev1.GetRunRequest) (*leylinev1.GetRunResponse, error) {
	f.heard = metadata.ValueFromIncomingContext(ctx, "authorization")
	return &leylinev1.GetRunResponse{Run: &leylinev1.Run{}}, nil
}

func (f *trainer) StartRun(context.Context, *leylinev1.StartRunRequest) (*leylinev1.StartRunResponse, error) {
	refusal, err := status.New(codes.InvalidArgument, "the request is invalid").WithDetails(
		&errdetails.ErrorInfo{Reason: "UNKNOWN_HOST", Domain: "leyline", Metadata: map[string]string{"known": "weak-cnn"}},
		&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
			{Field: "spec.host.name", Description: "no such host", Reason: "string.in"},
		}},
		&errdetails.RetryInfo{RetryDelay: durationpb.New(1500 * time.Millisecond)},
		&errdetails.RequestInfo{RequestId: "call-1"},
	)
	if err != nil {
		return nil, err
	}
	return nil, refusal.Err()
}

func (f *trainer) WatchRun(request *leylinev1.WatchRunRequest, stream grpc.ServerStreamingServer[leylinev1.WatchRunResponse]) error {
	for sequence := request.GetAfterSequence() + 1; sequence <= f.shows; sequence++ {
		if err := stream.Send(&leylinev1.WatchRunResponse{Sequence: sequence}); err != nil {
			return err
		}
	}
	if f.shows < lastEvent {
		<-stream.Context().Done()
		return stream.Context().Err()
	}
	return nil
}

// serve lets a trainer listen until the test ends.
func serve(t *testing.T, network, address string, fake *trainer) net.Addr {
	t.Helper()
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	fake.server = grpc.NewServer()
	leylinev1.RegisterTrainerServiceServer(fake.server, fake)
	go fake.server.Serve(listener)
	t.Cleanup(fake.server.Stop)
	return listener.Addr()
}

func dial(t *testing.T, address string, credentials leyline.Credentials) *leyline.Trainer {
	t.Helper()
	connection, err := leyline.Dial(address, credentials)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	return leyline.NewTrainer(connection)
}

func TestAWatchSurvivesAServerThatGoesAndComesBack(t *testing.T) {
	first := &trainer{shows: lastEvent / 2}
	address := serve(t, "tcp", "127.0.0.1:0", first)
	var seen []uint64
	for event, err := range dial(t, address.String(), leyline.Credentials{}).Watch(t.Context(), "run", 0) {
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, event.GetSequence())
		if event.GetSequence() == first.shows {
			first.server.Stop()
			serve(t, "tcp", address.String(), &trainer{shows: lastEvent})
		}
	}
	if !slices.Equal(seen, []uint64{1, 2, 3, 4, 5, 6}) {
		t.Errorf("saw %v", seen)
	}
}

func TestAUnixSocketIsAnAddress(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	serve(t, "unix", path, &trainer{shows: lastEvent})
	for _, err := range dial(t, "unix:"+path, leyline.Credentials{}).Watch(t.Context(), "run", lastEvent-1) {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestAnErrorSaysWhatTheServiceSaid(t *testing.T) {
	address := serve(t, "tcp", "127.0.0.1:0", &trainer{})
	_, err := dial(t, address.String(), leyline.Credentials{}).Start(t.Context(), "", &leylinev1.RunSpec{})
	var refused *leyline.Error
	if !errors.As(err, &refused) {
		t.Fatalf("got %v", err)
	}
	if refused.Code != codes.InvalidArgument || status.Code(err) != codes.InvalidArgument {
		t.Errorf("code is %v", refused.Code)
	}
	if refused.Reason != "UNKNOWN_HOST" || refused.Metadata["known"] != "weak-cnn" || refused.RequestID != "call-1" {
		t.Errorf("got %+v", refused)
	}
	want := []leyline.Violation{{Field: "spec.host.name", Description: "no such host", Rule: "string.in"}}
	if !slices.Equal(refused.Violations, want) {
		t.Errorf("violations are %v", refused.Violations)
	}
	if refused.RetryAfter != 1500*time.Millisecond || !refused.Transient() {
		t.Errorf("it may be tried again after %v", refused.RetryAfter)
	}
	if want := "the request is invalid (UNKNOWN_HOST)\n  spec.host.name: no such host"; err.Error() != want {
		t.Errorf("it says %q", err.Error())
	}
}

func TestACallEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := dial(t, "127.0.0.1:1", leyline.Credentials{}).Get(ctx, "run"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestSamplingSeedsAreThoseInTheFile(t *testing.T) {
	var cases []struct {
		RunSeed      uint64 `json:"run_seed,string"`
		EpisodeIndex uint32 `json:"episode_index"`
		Step         uint32
		SamplingSeed uint64 `json:"sampling_seed,string"`
	}
	golden.Read(t, golden.Files(t, "sampling_seeds.json")[0], &cases)
	for _, c := range cases {
		if seed := leyline.SamplingSeed(c.RunSeed, c.EpisodeIndex, c.Step); seed != c.SamplingSeed {
			t.Errorf("%v: got %d", c, seed)
		}
	}
}
