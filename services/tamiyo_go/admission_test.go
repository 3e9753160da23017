package main

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	leyline "leyline/clients/go"
	"leyline/clients/go/leylinev1"
)

func withToken(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// silent begins a call of a unary method whose message never comes, and returns it.
func silent(t *testing.T, ctx context.Context, connection *grpc.ClientConn) grpc.ClientStream {
	t.Helper()
	toServer := &grpc.StreamDesc{ClientStreams: true}
	stream, err := connection.NewStream(ctx, toServer, leylinev1.PolicyService_GetPolicyInfo_FullMethodName)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func TestAStrangerIsRefusedBeforeHisMessageHasCome(t *testing.T) {
	connection := start(t, "--tokens", tokens(t)).dial(t, leyline.Credentials{})
	for _, ctx := range []context.Context{t.Context(), withToken(t.Context(), "another")} {
		err := silent(t, ctx, connection).RecvMsg(&leylinev1.GetPolicyInfoResponse{})
		if refused := refusal(t, err); refused.Reason != "UNAUTHENTICATED" {
			t.Errorf("got %+v", refused)
		}
	}
}

func TestACallWhoseMessageDoesNotComeIsCountedAndEnds(t *testing.T) {
	p := start(t, "--tokens", tokens(t), "--max-concurrent-rpcs-per-caller", "1", "--default-deadline-s", "1")
	connection := p.dial(t, leyline.Credentials{})
	policy := leylinev1.NewPolicyServiceClient(connection)
	var err error
	ended := make(chan error, 1)
	for err == nil {
		// It comes to the server while none of those below is open, or is refused in its turn.
		waiting := silent(t, withToken(t.Context(), "trainer"), connection)
		go func() { ended <- waiting.RecvMsg(&leylinev1.GetPolicyInfoResponse{}) }()
		for err == nil && len(ended) == 0 {
			_, err = policy.GetPolicyInfo(withToken(t.Context(), "trainer"), &leylinev1.GetPolicyInfoRequest{})
		}
		if err == nil {
			<-ended
		}
	}
	if refused := refusal(t, err); refused.Code != codes.ResourceExhausted || refused.Reason != "TOO_MANY_CALLS_OF_CALLER" ||
		refused.Message != "a-trainer has 1 calls open already, and is let have no more at once" ||
		refused.RetryAfter != time.Second/2 {
		t.Errorf("got %+v", refused)
	}
	if _, err := policy.GetPolicyInfo(withToken(t.Context(), "operator"), &leylinev1.GetPolicyInfoRequest{}); err != nil {
		t.Errorf("another caller: %v", err)
	}
	if refused := refusal(t, <-ended); refused.Reason != "DEADLINE_EXCEEDED" || refused.Metadata["limit_s"] != "1" {
		t.Errorf("got %+v", refused)
	}
}

func TestAWatchWhoseMessageDoesNotComeEnds(t *testing.T) {
	connection := start(t, "--default-deadline-s", "0.1").dial(t, leyline.Credentials{})
	both := &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
	stream, err := connection.NewStream(t.Context(), both, grpc_health_v1.Health_Watch_FullMethodName)
	if err != nil {
		t.Fatal(err)
	}
	if refused := refusal(t, stream.RecvMsg(&grpc_health_v1.HealthCheckResponse{})); refused.Reason != "DEADLINE_EXCEEDED" {
		t.Errorf("got %+v", refused)
	}
}

func TestACallerMayBeginSoManyCallsInASecond(t *testing.T) {
	p := start(t, "--tokens", tokens(t), "--calls-per-s-per-caller", "0.001")
	policy := leylinev1.NewPolicyServiceClient(p.dial(t, leyline.Credentials{}))
	asked := func(token string) error {
		_, err := policy.GetPolicyInfo(withToken(t.Context(), token), &leylinev1.GetPolicyInfoRequest{})
		return err
	}
	if err := errors.Join(asked("trainer"), asked("operator")); err != nil {
		t.Error(err)
	}
	if refused := refusal(t, asked("trainer")); refused.Code != codes.ResourceExhausted || refused.Reason != "CALLER_TOO_FAST" ||
		refused.Message != "a-trainer calls more often than 0.001 times a second" || refused.RetryAfter != time.Second {
		t.Errorf("got %+v", refused)
	}
}

func TestWatchesOfStrangersKeepNobodyOutWhoHasAToken(t *testing.T) {
	p := start(t, "--tokens", tokens(t), "--max-concurrent-rpcs", "1")
	connection := p.dial(t, leyline.Credentials{})
	watched := func(ctx context.Context, connection *grpc.ClientConn) error {
		health := grpc_health_v1.NewHealthClient(connection)
		watch, err := health.Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
		if err == nil {
			_, err = watch.Recv()
		}
		return err
	}
	for range 32 {
		if err := watched(t.Context(), connection); err != nil {
			t.Fatal(err)
		}
	}
	if refused := refusal(t, watched(t.Context(), connection)); refused.Reason != "TOO_MANY_CALLS_OF_CALLER" {
		t.Errorf("got %+v", refused)
	}
	// Of one connection, calls beyond 33 wait at the client.
	connection = p.dial(t, leyline.Credentials{})
	policy := leylinev1.NewPolicyServiceClient(connection)
	if _, err := policy.GetPolicyInfo(withToken(t.Context(), "operator"), &leylinev1.GetPolicyInfoRequest{}); err != nil {
		t.Error(err)
	}
	// Whoever says who he is watches at his own expense.
	if err := watched(withToken(t.Context(), "operator"), connection); err != nil {
		t.Error(err)
	}
	_, err := policy.GetPolicyInfo(withToken(t.Context(), "operator"), &leylinev1.GetPolicyInfoRequest{})
	if refused := refusal(t, err); refused.Reason != "TOO_MANY_CALLS" || refused.RetryAfter != time.Second/2 ||
		refused.Message != "the server has 1 calls open already, and takes no more at once" {
		t.Errorf("got %+v", refused)
	}
	health := grpc_health_v1.NewHealthClient(connection)
	if _, err := health.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Errorf("a full server does not say that it is alive: %v", err)
	}
}

func TestATokenIsTakenOnlyWithACertificateOfItsName(t *testing.T) {
	folder := t.TempDir()
	certificate, key := certify(t, folder, "server")
	authorities, allowed := "", map[string]bool{"trainer": true, "policy": false, "nobody": false}
	certificates, keys := make(map[string]string), make(map[string]string)
	for name := range allowed {
		certificates[name], keys[name] = certify(t, folder, "a-"+name)
		authorities += contentOf(t, certificates[name])
	}
	p := start(t, "--tokens", tokens(t), "--tls-certificate", certificate, "--tls-key", key,
		"--tls-client-ca", holding(t, authorities))
	for name, welcome := range allowed {
		connection := p.dial(t, leyline.Credentials{
			CA: certificate, Certificate: certificates[name], Key: keys[name], Token: holding(t, "trainer"),
		})
		err := ask(t, connection)
		if (err == nil) != welcome {
			t.Errorf("%s: got %v", name, err)
		}
		if err != nil {
			if refused := refusal(t, err); refused.Code != codes.Unauthenticated ||
				refused.Metadata["problem"] != "its token is for 'a-trainer', its certificate for somebody else" {
				t.Errorf("%s: got %+v", name, refused)
			}
		}
		if _, err := grpc_health_v1.NewHealthClient(connection).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	p.end()
	shown := make(map[any]bool)
	for _, call := range p.callsInLog(t) {
		shown[call["certificate"]] = call["caller"] == "a-trainer" && call["code"] == "UNAUTHENTICATED"
	}
	if len(shown) != 2 || !shown["a-policy"] || !shown["a-nobody"] {
		t.Errorf("the log has %v", shown)
	}
	if !strings.Contains(p.log.String(), `"asks_for_tokens":true,"asks_for_certificates":true`) {
		t.Errorf("the log says %s", p.log)
	}
}

func TestACertificateThatEndsSoonIsWarnedOf(t *testing.T) {
	certificate, key := certify(t, t.TempDir(), "server")
	p := start(t, "--tls-certificate", certificate, "--tls-key", key, "--tls-client-ca", certificate)
	p.end()
	if said := strings.Count(p.log.String(), "certificate ends soon"); said != 2 || !strings.Contains(p.log.String(), certificate) {
		t.Errorf("the log says %s", p.log)
	}
}
