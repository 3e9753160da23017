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
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
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

// Note adds a fact to the line about the call in the log. The names in use are run_id, episode and policy_version.
func (c *Call) Note(name string, fact any) {
	c.facts[name] = fact
}

type callKey struct{}

// CurrentCall returns the call that a handler's context belongs to.
func CurrentCall(ctx context.Context) *Call {
	return ctx.Value(callKey{}).(*Call)
}

// calls surrounds every call of a server: an id, a line in the log, and the one place where an error becomes a status.
type calls struct {
	log             *slog.Logger
	defaultDeadline time.Duration
	open            chan struct{}
}

func (c *calls) unary(
	ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (response any, err error) {
	err = c.around(ctx, info.FullMethod, func(ctx context.Context) error {
		_, bounded := ctx.Deadline()
		if !bounded {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, c.defaultDeadline)
			defer cancel()
		}
		response, err = handler(ctx, request)
		if !bounded && errors.Is(err, context.DeadlineExceeded) {
			limit := strconv.FormatFloat(c.defaultDeadline.Seconds(), 'g', -1, 64)
			return &Refusal{
				Reason:  DeadlineExceeded,
				Message: fmt.Sprintf("the call did not finish within %s s", limit),
				Facts:   Facts{"limit_s": limit},
			}
		}
		return err
	})
	return response, err
}

// withContext is a stream whose context knows its call.
type withContext struct {
	grpc.ServerStream
	ctx context.Context
}

func (s withContext) Context() context.Context { return s.ctx }

func (c *calls) stream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return c.around(stream.Context(), info.FullMethod, func(ctx context.Context) error {
		return handler(server, withContext{stream, ctx})
	})
}

func (c *calls) around(ctx context.Context, method string, serve func(context.Context) error) error {
	select {
	case c.open <- struct{}{}:
		defer func() { <-c.open }()
	default:
		return status.Errorf(codes.ResourceExhausted, "%d calls are open already", cap(c.open))
	}
	call := &Call{RequestID: requestID(ctx), facts: make(map[string]any)}
	log := c.log.With("request_id", call.RequestID, "method", method)
	started := time.Now()
	said := statusOf(served(context.WithValue(ctx, callKey{}, call), serve), call, log)

	level := slog.LevelInfo
	if said.Code() == codes.OK {
		level = slog.LevelDebug
	}
	attributes := []slog.Attr{
		slog.String("code", code.Code(said.Code()).String()),
		slog.Float64("duration_ms", float64(time.Since(started).Microseconds())/1000),
	}
	for _, name := range slices.Sorted(maps.Keys(call.facts)) {
		attributes = append(attributes, slog.Any(name, call.facts[name]))
	}
	log.LogAttrs(ctx, level, "call", attributes...)
	return said.Err()
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
		Reason:  internal,
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
