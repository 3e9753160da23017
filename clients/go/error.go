package leyline

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Violation is one rule that a message breaks.
type Violation struct {
	// Field is the path of the field, as in "spec.host.name"; empty for the message itself.
	Field string
	// Description says what the rule wants, without the value that broke it.
	Description string
	// Rule is the rule's id, as in "double.lte"; empty where no rule of the contract says it.
	Rule string
}

// Error says that a service did not answer with a result. Every call of this package fails with one, or with the error of
// its context; errors.As finds it.
type Error struct {
	// Code is gRPC's status code.
	Code codes.Code
	// Reason is the name of docs/errors.md to program against, as in "RUN_NOT_FOUND"; empty where gRPC itself or a foreign
	// server answered.
	Reason string
	// Message is for people, and may change.
	Message string
	// Metadata has the facts about the reason, by name.
	Metadata map[string]string
	// Violations are the fields that break a rule.
	Violations []Violation
	// RetryAfter is the time after which the same request may succeed; 0 where the server does not say so.
	RetryAfter time.Duration
	// RequestID names the call in the server's log; empty where the server does not say.
	RequestID string

	said *spb.Status
}

// ErrorFromStatus reads a status that came inside a message, as the items of a stream carry it.
func ErrorFromStatus(said *spb.Status) *Error {
	e := &Error{Code: codes.Code(said.GetCode()), Message: said.GetMessage(), said: said}
	for _, detail := range status.FromProto(said).Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			e.Reason, e.Metadata = detail.GetReason(), detail.GetMetadata()
		case *errdetails.BadRequest:
			for _, broken := range detail.GetFieldViolations() {
				e.Violations = append(e.Violations, Violation{broken.GetField(), broken.GetDescription(), broken.GetReason()})
			}
		case *errdetails.RetryInfo:
			e.RetryAfter = detail.GetRetryDelay().AsDuration()
		case *errdetails.RequestInfo:
			e.RequestID = detail.GetRequestId()
		}
	}
	return e
}

// errorFrom reads what a failed call ended with.
func errorFrom(err error) *Error {
	return ErrorFromStatus(status.Convert(err).Proto())
}

// Transient says whether the same request may succeed later: the server says so, or was not there.
func (e *Error) Transient() bool {
	return e.RetryAfter > 0 || e.Code == codes.Unavailable
}

// GRPCStatus returns the status as it came, for the functions of gRPC's package status.
func (e *Error) GRPCStatus() *status.Status {
	return status.FromProto(e.said)
}

func (e *Error) Error() string {
	name := e.Reason
	if name == "" {
		name = e.Code.String()
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s (%s)", e.Message, name)
	for _, broken := range e.Violations {
		field := broken.Field
		if field == "" {
			field = "the request"
		}
		fmt.Fprintf(&text, "\n  %s: %s", field, broken.Description)
	}
	return text.String()
}
