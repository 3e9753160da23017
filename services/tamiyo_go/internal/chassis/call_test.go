package chassis

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	leyline "leyline/clients/go"
)

// played is a stream of a call that a test plays; nothing comes or goes on it.
type played struct {
	grpc.ServerStream
	ctx context.Context
}

func (p played) Context() context.Context { return p.ctx }

// answer plays a unary call whose handler is given, and returns what the client would see and the log.
func answer(t *testing.T, ctx context.Context, handler grpc.UnaryHandler) (*leyline.Error, string) {
	t.Helper()
	var log bytes.Buffer
	around := &calls{
		log:             NewLog(&log, "test", slog.LevelDebug),
		defaultDeadline: 20 * time.Millisecond,
		limits:          newLimits(Settings{MaxConcurrentRPCs: 1}),
		metrics:         newCallMetrics(newRegistry()),
	}
	serve := func(_ any, ctx context.Context, _ func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		return handler(ctx, nil)
	}
	err := around.unary(method{name: "Call", service: "test"}, serve)(nil, played{ctx: ctx})
	if err == nil {
		t.Fatal("it was answered")
	}
	return leyline.ErrorFromStatus(status.Convert(err).Proto()), log.String()
}

// untilCancelled is a handler that never answers.
func untilCancelled(ctx context.Context, _ any) (any, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestAUnaryCallWithoutADeadlineGetsTheServersOwn(t *testing.T) {
	refused, _ := answer(t, t.Context(), untilCancelled)
	if refused.Code != codes.DeadlineExceeded || refused.Reason != "DEADLINE_EXCEEDED" || refused.Metadata["limit_s"] != "0.02" {
		t.Errorf("got %+v", refused)
	}
}

func TestTheClientsDeadlineIsTheOneThatHolds(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	cancel()
	if refused, _ := answer(t, ctx, untilCancelled); refused.Code != codes.Canceled || refused.Reason != "" {
		t.Errorf("got %+v", refused)
	}
}

func TestABugIsAnIdForTheClientAndAStackInTheLog(t *testing.T) {
	for name, handler := range map[string]grpc.UnaryHandler{
		"a panic":             func(context.Context, any) (any, error) { panic("secret") },
		"an error of no kind": func(context.Context, any) (any, error) { return nil, errors.New("secret") },
	} {
		t.Run(name, func(t *testing.T) {
			refused, log := answer(t, t.Context(), handler)
			if refused.Code != codes.Internal || refused.Reason != "INTERNAL" || strings.Contains(refused.Message, "secret") {
				t.Errorf("got %+v", refused)
			}
			if id := refused.Metadata["error_id"]; id == "" || !strings.Contains(log, id) || !strings.Contains(log, "secret") {
				t.Errorf("the log has no %s: %s", id, log)
			}
		})
	}
}

func TestARequestIdThatCannotStandInALogIsReplaced(t *testing.T) {
	for given, kept := range map[string]bool{
		"call-7:a.b_c": true, "": false, "two words": false, "x\ny": false, strings.Repeat("x", 129): false,
	} {
		ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs(requestIDKey, given))
		refused, _ := answer(t, ctx, func(context.Context, any) (any, error) { return nil, &Refusal{Reason: ShuttingDown} })
		if (refused.RequestID == given) != kept || refused.RequestID == "" {
			t.Errorf("%q became %q", given, refused.RequestID)
		}
	}
}

// stuck is a service with one stream that ends only with its connection.
func stuck(entered chan<- struct{}) *grpc.ServiceDesc {
	return &grpc.ServiceDesc{
		ServiceName: "test.Stuck",
		HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{
			StreamName:    "Wait",
			ServerStreams: true,
			ClientStreams: true,
			Handler: func(_ any, stream grpc.ServerStream) error {
				close(entered)
				<-stream.Context().Done()
				return stream.Context().Err()
			},
		}},
	}
}

func TestACallThatDoesNotEndIsCutOffAfterTheGraceOrBySecondSignal(t *testing.T) {
	for name, c := range map[string]struct {
		grace   time.Duration
		signals int
	}{
		"the grace ends":  {10 * time.Millisecond, 1},
		"a second signal": {time.Hour, 2},
	} {
		t.Run(name, func(t *testing.T) {
			path := t.TempDir() + "/socket"
			settings := Settings{Listen: Address{path: path}, DrainGrace: c.grace, MaxConcurrentRPCs: 8, MaxMessageBytes: 1 << 20}
			server, err := NewServer(settings, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			entered, signals, ended := make(chan struct{}), make(chan os.Signal, 2), make(chan error)
			server.GRPC.RegisterService(stuck(entered), nil)
			go func() { ended <- server.Serve(signals) }()
			connection, err := leyline.Dial("unix:"+path, leyline.Credentials{})
			if err != nil {
				t.Fatal(err)
			}
			defer connection.Close()
			both := &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
			if _, err = connection.NewStream(t.Context(), both, "/test.Stuck/Wait", grpc.WaitForReady(true)); err != nil {
				t.Fatal(err)
			}
			<-entered
			for range c.signals {
				signals <- syscall.SIGTERM
			}
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}
