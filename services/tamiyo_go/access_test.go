package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"

	leyline "leyline/clients/go"
	"leyline/clients/go/leylinev1"
)

// line is that of a token in the file of a server.
func line(name, scopes, token string) string {
	return fmt.Sprintf("%s %s sha256:%x\n", name, scopes, sha256.Sum256([]byte(token)))
}

// tokens is a server's file with a token for each scope, of the scope's name.
func tokens(t *testing.T) string {
	t.Helper()
	return holding(t, "# who may call\n\n"+
		line("a-trainer", "trainer", "trainer")+line("a-policy", "policy", "policy")+line("an-operator", "operator", "operator"))
}

func TestADecisionIsForTrainersAndOperators(t *testing.T) {
	p := start(t, "--tokens", tokens(t), "--log-level", "debug")
	for scope, allowed := range map[string]bool{"trainer": true, "policy": false, "operator": true} {
		connection := p.dial(t, leyline.Credentials{Token: holding(t, scope+"\n")})
		policy := leylinev1.NewPolicyServiceClient(connection)
		_, alone := policy.Decide(t.Context(), &leylinev1.DecideRequest{Query: query(1)})
		stream, err := policy.StreamDecisions(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if allowed {
			decides(t, stream)
			if alone != nil {
				t.Errorf("%s: %v", scope, alone)
			}
			continue
		}
		_, streamed := stream.Recv()
		for method, err := range map[string]error{"Decide": alone, "StreamDecisions": streamed} {
			method = "/leyline.v1.PolicyService/" + method
			refused := refusal(t, err)
			if refused.Code != codes.PermissionDenied || refused.Reason != "SCOPE_MISSING" || refused.Transient() ||
				refused.Message != method+" is not for the token of 'a-policy', whose scopes are: policy" ||
				!maps.Equal(refused.Metadata, map[string]string{"method": method, "caller": "a-policy", "given": "policy"}) {
				t.Errorf("%s: got %+v", scope, refused)
			}
		}
	}
	p.end()
	called := make(map[any]int)
	for _, call := range p.callsInLog(t) {
		called[call["caller"]]++
		if isRefused := call["code"] == "PERMISSION_DENIED"; isRefused != (call["caller"] == "a-policy") ||
			isRefused && call["peer"] != "127.0.0.1" {
			t.Errorf("the log has %v", call)
		}
	}
	if want := map[any]int{"a-trainer": 2, "an-operator": 2, "a-policy": 2}; !maps.Equal(called, want) {
		t.Errorf("by the log %v have called", called)
	}
}

// callsInLog are the lines of an ended server about calls.
func (p *process) callsInLog(t *testing.T) (calls []map[string]any) {
	t.Helper()
	for entry := range strings.Lines(p.log.String()) {
		var call map[string]any
		if err := json.Unmarshal([]byte(entry), &call); err != nil {
			t.Fatal(err)
		}
		if call["event"] == "call" {
			calls = append(calls, call)
		}
	}
	return calls
}

func TestWhoeverShowsNoTokenOrOneThatIsNotKnownIsNotLetIn(t *testing.T) {
	connection := start(t, "--tokens", tokens(t)).dial(t, leyline.Credentials{})
	for shown, problem := range map[string]string{
		"":               "the call carries no token",
		"Basic trainer":  "the call carries no token",
		"trainer":        "the call carries no token",
		"Bearer another": "its token is not known here",
		"bearer Trainer": "its token is not known here",
	} {
		ctx := t.Context()
		if shown != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", shown)
		}
		policy := leylinev1.NewPolicyServiceClient(connection)
		_, alone := policy.GetPolicyInfo(ctx, &leylinev1.GetPolicyInfoRequest{})
		stream, err := policy.StreamDecisions(ctx)
		if err != nil {
			t.Fatal(err)
		}
		_, streamed := stream.Recv()
		for _, err := range []error{alone, streamed} {
			refused := refusal(t, err)
			if refused.Code != codes.Unauthenticated || refused.Reason != "UNAUTHENTICATED" || refused.Transient() ||
				refused.Message != "this server wants to know who calls: "+problem || refused.Metadata["problem"] != problem {
				t.Errorf("%q: got %+v", shown, refused)
			}
		}
	}
}

func TestHealthNeedsNoTokenAndReflectionAny(t *testing.T) {
	p := start(t, "--tokens", tokens(t))
	reflect := func(credentials leyline.Credentials) error {
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		stream, err := grpc_reflection_v1.NewServerReflectionClient(p.dial(t, credentials)).ServerReflectionInfo(ctx)
		if err != nil {
			t.Fatal(err)
		}
		stream.Send(&grpc_reflection_v1.ServerReflectionRequest{
			MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{},
		})
		_, err = stream.Recv()
		return err
	}
	health := grpc_health_v1.NewHealthClient(p.dial(t, leyline.Credentials{}))
	if _, err := health.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Error(err)
	}
	if refused := refusal(t, reflect(leyline.Credentials{})); refused.Reason != "UNAUTHENTICATED" {
		t.Errorf("got %+v", refused)
	}
	if err := reflect(leyline.Credentials{Token: holding(t, "policy")}); err != nil {
		t.Error(err)
	}
}

func TestATokenIsReplacedOnBothSidesWithoutARestart(t *testing.T) {
	known, own := tokens(t), holding(t, "trainer\n")
	connection := start(t, "--tokens", known).dial(t, leyline.Credentials{Token: own})
	if err := ask(t, connection); err != nil {
		t.Error(err)
	}
	stream, err := leylinev1.NewPolicyServiceClient(connection).StreamDecisions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	decides(t, stream)
	replace(t, known, line("a-trainer", "trainer", "the.next.one"))
	if refused := refusal(t, ask(t, connection)); refused.Reason != "UNAUTHENTICATED" {
		t.Errorf("got %+v", refused)
	}
	replace(t, own, "the.next.one\n")
	if err := ask(t, connection); err != nil {
		t.Error(err)
	}
	decides(t, stream)
}

func TestTokensThatAreWrongWhileTheServerRunsChangeNothing(t *testing.T) {
	known := tokens(t)
	p := start(t, "--tokens", known)
	trainer := p.dial(t, leyline.Credentials{Token: holding(t, "trainer")})
	for _, written := range []string{
		"half a li",
		line("a-trainer", "trainer", "trainer") + "a-trainer king " + strings.Repeat("0", 64),
		line("alice", "unspecified", "trainer"),
		line("alice", "trainer,", "trainer"),
		"alice trainer sha256:12",
	} {
		replace(t, known, written)
		for range 2 {
			if err := ask(t, trainer); err != nil {
				t.Errorf("%q: %v", written, err)
			}
		}
	}
	if err := os.Remove(known); err != nil {
		t.Fatal(err)
	}
	if err := ask(t, trainer); err != nil {
		t.Error(err)
	}
	replace(t, known, "# nobody\n")
	if refused := refusal(t, ask(t, trainer)); refused.Reason != "UNAUTHENTICATED" {
		t.Errorf("got %+v", refused)
	}
	p.end()
	if log := p.log.String(); strings.Count(log, `"tokens not read"`) != 6 || strings.Count(log, `"tokens read"`) != 1 {
		t.Errorf("the log says %s", log)
	}
}
