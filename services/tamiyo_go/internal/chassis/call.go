package chassis

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"net/netip"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"leyline/clients/go/renewal"
)

const requestIDKey = "x-request-id"

// requestIDPattern is what may stand in a log line and a header without being quoted.
var requestIDPattern = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,128}$`)

// Call is what a server knows of the call that it answers. It belongs to the call's own goroutine.
type Call struct {
	// RequestID is the caller's own, or one that was made.
	RequestID string

	facts map[string]any
}

// Note adds a fact to the line about the call in the log. The names in use are caller, certificate, peer, run_id, episode
// and policy_version.
func (c *Call) Note(name string, fact any) {
	c.facts[name] = fact
}

type callKey struct{}

// CurrentCall returns the call that a handler's context belongs to.
func CurrentCall(ctx context.Context) *Call {
	return ctx.Value(callKey{}).(*Call)
}

// calls surrounds every call of a server: who calls, an id, a line in the log, what is counted, and the one place where an
// error becomes a status.
type calls struct {
	log             *slog.Logger
	defaultDeadline time.Duration
	limits          *limits
	metrics         *callMetrics
	// callers are those who may call; nil lets everybody call everything.
	callers *renewal.Files[callers]
	// certified is whether callers show certificates.
	certified bool
}

// registrar is a gRPC server whose every method has calls around it.
type registrar struct {
	*grpc.Server
	calls *calls
}

// RegisterService registers a service. To gRPC all of its methods are streams: before an interceptor of a unary call could
// ask whose it is, gRPC would wait for its message, for as long as the client likes, and parse it.
func (r registrar) RegisterService(service *grpc.ServiceDesc, implementation any) {
	around := *service
	around.Methods, around.Streams = nil, nil
	for _, method := range service.Methods {
		handler := r.calls.unary(methodOf(service.ServiceName, method.MethodName, false, false), method.Handler)
		around.Streams = append(around.Streams, grpc.StreamDesc{StreamName: method.MethodName, Handler: handler})
	}
	for _, stream := range service.Streams {
		method := methodOf(service.ServiceName, stream.StreamName, stream.ClientStreams, stream.ServerStreams)
		stream.Handler = r.calls.stream(method, stream)
		around.Streams = append(around.Streams, stream)
	}
	r.Server.RegisterService(&around, implementation)
}

func (c *calls) unary(method method, handler grpc.MethodHandler) grpc.StreamHandler {
	return func(implementation any, stream grpc.ServerStream) error {
		return c.around(stream.Context(), method, func(ctx context.Context) error {
			return c.bounded(ctx, func(ctx context.Context) error {
				receive := func(request any) error { return receive(ctx, stream, request) }
				response, err := handler(implementation, ctx, receive, nil)
				if err != nil {
					return err
				}
				return stream.SendMsg(response)
			})
		})
	}
}

func (c *calls) stream(method method, stream grpc.StreamDesc) grpc.StreamHandler {
	handler, takesOne := stream.Handler, !stream.ClientStreams
	return func(implementation any, stream grpc.ServerStream) error {
		return c.around(stream.Context(), method, func(ctx context.Context) error {
			inner := withContext{stream, ctx}
			if takesOne {
				return handler(implementation, ofOneRequest{inner, c})
			}
			return handler(implementation, inner)
		})
	}
}

// withContext is a stream whose context knows its call.
type withContext struct {
	grpc.ServerStream
	ctx context.Context
}

func (s withContext) Context() context.Context { return s.ctx }

// ofOneRequest is a stream of responses alone.
type ofOneRequest struct {
	withContext
	calls *calls
}

func (s ofOneRequest) RecvMsg(request any) error {
	return s.calls.bounded(s.ctx, func(ctx context.Context) error { return receive(ctx, s.ServerStream, request) })
}

// receive waits for the one message of a call, and no longer than ctx lasts.
func receive(ctx context.Context, stream grpc.ServerStream, request any) error {
	received := make(chan error, 1)
	// Only another goroutine can wait for a message and be left waiting: the end of the call ends it.
	go func() { received <- stream.RecvMsg(request) }()
	select {
	case err := <-received:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// bounded does something within the server's own deadline, where the client gave none.
func (c *calls) bounded(ctx context.Context, do func(context.Context) error) error {
	if _, bounded := ctx.Deadline(); bounded {
		return do(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, c.defaultDeadline)
	defer cancel()
	err := do(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		limit := strconv.FormatFloat(c.defaultDeadline.Seconds(), 'g', -1, 64)
		return &Refusal{
			Reason:  DeadlineExceeded,
			Message: fmt.Sprintf("the call did not finish within %s s", limit),
			Facts:   Facts{"limit_s": limit},
		}
	}
	return err
}

func (c *calls) around(ctx context.Context, method method, serve func(context.Context) error) error {
	call := &Call{RequestID: requestID(ctx), facts: make(map[string]any)}
	log := c.log.With("request_id", call.RequestID, "method", method.String())
	started := time.Now()
	c.metrics.began(method)
	end, err := c.admit(ctx, method.String(), call)
	if err == nil {
		defer end()
		err = served(context.WithValue(ctx, callKey{}, call), serve)
	}
	said, took := statusOf(err, call, log), time.Since(started)
	spelled := code.Code(said.Code()).String()
	c.metrics.ended(method, spelled, took)

	level := slog.LevelDebug
	if said.Code() != codes.OK {
		level = slog.LevelInfo
		call.Note("peer", hostOf(ctx))
	}
	attributes := []slog.Attr{
		slog.String("code", spelled),
		slog.Float64("duration_ms", float64(took.Microseconds())/1000),
	}
	for _, name := range slices.Sorted(maps.Keys(call.facts)) {
		attributes = append(attributes, slog.Any(name, call.facts[name]))
	}
	log.LogAttrs(ctx, level, "call", attributes...)
	return said.Err()
}

// admit notes who calls, where not everybody may, and counts the call as his until end: by the token, or else by where the
// call comes from. The error is a [*Refusal].
func (c *calls) admit(ctx context.Context, method string, call *Call) (end func(), err error) {
	if method == healthCheck {
		// A full server is alive, and whoever restarts those that are not must hear so.
		return func() {}, nil
	}
	if c.callers == nil {
		return c.limits.begin(networkOf(hostOf(ctx)))
	}
	who, err := c.callers.Now().caller(ctx, call, c.certified)
	if isOpen := strings.HasPrefix(method, openToAll); isOpen && err != nil {
		return c.limits.beginWatch()
	} else if err == nil && !isOpen {
		err = who.refuse(method)
	}
	if err != nil {
		return nil, err
	}
	return c.limits.begin(who.name)
}

// hostOf is where a call comes from: the address, without the port.
func hostOf(ctx context.Context) string {
	from, known := peer.FromContext(ctx)
	if !known {
		return ""
	}
	if address, err := netip.ParseAddrPort(from.Addr.String()); err == nil {
		return address.Addr().Unmap().String()
	}
	return "unix:"
}

// panicked is a bug that showed itself in a handler.
type panicked struct {
	what  any
	stack string
}

func (p *panicked) Error() string { return fmt.Sprintf("panic: %v", p.what) }

func served(ctx context.Context, serve func(context.Context) error) (err error) {
	defer func() {
		if what := recover(); what != nil {
			err = &panicked{what, string(debug.Stack())}
		}
	}()
	return serve(ctx)
}

// statusOf says an error as a status. What is in no catalogue is INTERNAL, and is only logged.
func statusOf(err error, call *Call, log *slog.Logger) *status.Status {
	var refusal *Refusal
	switch {
	case err == nil:
		return status.New(codes.OK, "")
	case errors.As(err, &refusal):
		return status.FromProto(refusal.Status(call.RequestID))
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err)
	}
	if said, isStatus := status.FromError(err); isStatus {
		return said
	}
	errorID := randomID()[:12]
	unexpected := []any{"error_id", errorID, "error", err}
	var bug *panicked
	if errors.As(err, &bug) {
		unexpected = append(unexpected, "stack", bug.stack)
	}
	log.Error("unexpected error", unexpected...)
	refusal = &Refusal{
		Reason:  Internal,
		Message: "something went wrong here; the server's log has it as " + errorID,
		Facts:   Facts{"error_id": errorID},
	}
	return status.FromProto(refusal.Status(call.RequestID))
}

func requestID(ctx context.Context) string {
	for _, given := range metadata.ValueFromIncomingContext(ctx, requestIDKey) {
		if requestIDPattern.MatchString(given) {
			return given
		}
	}
	return randomID()
}

func randomID() string {
	var id [16]byte
	rand.Read(id[:])
	return hex.EncodeToString(id[:])
}

// Incoming yields a stream's messages until the caller has half-closed it, or until the server drains: then no more is read,
// what was read is still yielded, and the last thing is SHUTTING_DOWN. Any other error is the stream's own.
func Incoming[Request, Response any](
	stream grpc.BidiStreamingServer[Request, Response], draining <-chan struct{},
) iter.Seq2[*Request, error] {
	type received struct {
		request *Request
		err     error
	}
	return func(yield func(*Request, error) bool) {
		// Only another goroutine can wait for a message and be left waiting: the end of the call ends it.
		messages := make(chan received)
		go func() {
			for !isClosed(draining) {
				request, err := stream.Recv()
				select {
				case messages <- received{request, err}:
				case <-stream.Context().Done():
					return
				}
				if err != nil {
					return
				}
			}
		}()
		for {
			var next received
			select {
			case next = <-messages:
			case <-draining:
				select {
				case next = <-messages:
				default:
					yield(nil, &Refusal{Reason: ShuttingDown, Message: "the server is shutting down"})
					return
				}
			}
			if errors.Is(next.err, io.EOF) || !yield(next.request, next.err) || next.err != nil {
				return
			}
		}
	}
}

func isClosed(signal <-chan struct{}) bool {
	select {
	case <-signal:
		return true
	default:
		return false
	}
}
