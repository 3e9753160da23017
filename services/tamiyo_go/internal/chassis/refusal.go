package chassis

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	leyline "leyline/clients/go"
)

// Domain is that of every ErrorInfo.
const Domain = "leyline"

const (
	// A status travels in HTTP/2 trailers, and gRPC lets those have 8 KiB: a client that gets more sees RESOURCE_EXHAUSTED
	// instead of the error. This is in bytes before base64, which adds a third; with the message once more in its own
	// trailer it stays below.
	largestStatus  = 3584
	longestText    = 512
	mostViolations = 16
)

// Reason is an entry of docs/errors.md.
type Reason struct {
	name       string
	code       codes.Code
	retryAfter time.Duration
}

func (r Reason) String() string { return r.name }

// The reasons that a server of this kind has.
var (
	InvalidArgument       = Reason{name: "INVALID_ARGUMENT", code: codes.InvalidArgument}
	DeadlineExceeded      = Reason{name: "DEADLINE_EXCEEDED", code: codes.DeadlineExceeded}
	Unauthenticated       = Reason{name: "UNAUTHENTICATED", code: codes.Unauthenticated}
	ScopeMissing          = Reason{name: "SCOPE_MISSING", code: codes.PermissionDenied}
	FingerprintMismatch   = Reason{name: "FINGERPRINT_MISMATCH", code: codes.FailedPrecondition}
	PolicyVersionNotFound = Reason{name: "POLICY_VERSION_NOT_FOUND", code: codes.NotFound}
	TooManyCalls          = Reason{name: "TOO_MANY_CALLS", code: codes.ResourceExhausted, retryAfter: time.Second / 2}
	TooManyCallsOfCaller  = Reason{name: "TOO_MANY_CALLS_OF_CALLER", code: codes.ResourceExhausted, retryAfter: time.Second / 2}
	CallerTooFast         = Reason{name: "CALLER_TOO_FAST", code: codes.ResourceExhausted, retryAfter: time.Second}
	ShuttingDown          = Reason{name: "SHUTTING_DOWN", code: codes.Unavailable, retryAfter: time.Second}
	Internal              = Reason{name: "INTERNAL", code: codes.Internal}
)

// Facts are what an error says for programs, by name: public, and short.
type Facts map[string]string

// Refusal is an answer instead of a result.
type Refusal struct {
	Reason Reason
	// Message is for people.
	Message string
	// Facts are those of the message and any others.
	Facts Facts
	// Violations are the fields to blame.
	Violations []leyline.Violation
}

// RefuseInvalid blames fields. There is at least one violation.
func RefuseInvalid(broken []leyline.Violation) *Refusal {
	var text strings.Builder
	text.WriteString("the request is invalid: ")
	if broken[0].Field != "" {
		text.WriteString(broken[0].Field + ": ")
	}
	text.WriteString(broken[0].Description)
	if more := len(broken) - 1; more > 0 {
		fmt.Fprintf(&text, " (and %d more)", more)
	}
	return &Refusal{Reason: InvalidArgument, Message: text.String(), Violations: broken}
}

func (r *Refusal) Error() string {
	return r.Reason.name + ": " + r.Message
}

// Status says it as a google.rpc.Status of at most 3.5 KiB: ErrorInfo always, BadRequest where fields are to blame,
// RetryInfo where the same request may succeed later, and RequestInfo.
func (r *Refusal) Status(requestID string) *spb.Status {
	violations := r.Violations[:min(len(r.Violations), mostViolations)]
	for {
		said := &spb.Status{
			Code:    int32(r.Reason.code),
			Message: bounded(r.Message),
			Details: r.details(requestID, violations),
		}
		if proto.Size(said) <= largestStatus || len(violations) == 0 {
			return said
		}
		violations = violations[:len(violations)-1]
	}
}

func (r *Refusal) details(requestID string, violations []leyline.Violation) []*anypb.Any {
	info := &errdetails.ErrorInfo{Reason: r.Reason.name, Domain: Domain, Metadata: make(map[string]string)}
	for name, fact := range r.Facts {
		info.Metadata[name] = bounded(fact)
	}
	details := []proto.Message{info}
	if len(violations) > 0 {
		request := &errdetails.BadRequest{}
		for _, broken := range violations {
			request.FieldViolations = append(request.FieldViolations, &errdetails.BadRequest_FieldViolation{
				Field:       bounded(broken.Field),
				Description: bounded(broken.Description),
				Reason:      bounded(broken.Rule),
			})
		}
		details = append(details, request)
	}
	if r.Reason.retryAfter > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(r.Reason.retryAfter)})
	}
	details = append(details, &errdetails.RequestInfo{RequestId: requestID})
	packed := make([]*anypb.Any, len(details))
	for place, detail := range details {
		packed[place] = &anypb.Any{}
		// Deterministic, so that the same error is the same bytes.
		if err := anypb.MarshalFrom(packed[place], detail, proto.MarshalOptions{Deterministic: true}); err != nil {
			panic(err) // only text that is not UTF-8 cannot be packed, and what is bounded is UTF-8
		}
	}
	return packed
}

// bounded makes text fit for a status: UTF-8, and not long.
func bounded(text string) string {
	text = strings.ToValidUTF8(text, "?")
	if len(text) <= longestText {
		return text
	}
	end := longestText - len("…")
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}
