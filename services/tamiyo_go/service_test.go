package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	leyline "leyline/clients/go"
	"leyline/clients/go/leylinev1"
	"leyline/clients/go/observation"
)

// process is a server that runs as main would run it, in this process.
type process struct {
	address string
	signals chan os.Signal
	ended   chan int
	log     *bytes.Buffer
}

// start runs a server on a port of the kernel's choice, unless the arguments say otherwise, until the test ends.
func start(t *testing.T, arguments ...string) *process {
	t.Helper()
	portFile := filepath.Join(t.TempDir(), "address")
	arguments = append([]string{"--listen", "127.0.0.1:0", "--port-file", portFile}, arguments...)
	p := &process{signals: make(chan os.Signal, 2), ended: make(chan int, 1), log: &bytes.Buffer{}}
	go func() { p.ended <- run(arguments, noVariable, p.signals, io.Discard, p.log) }()
	for {
		select {
		case code := <-p.ended:
			t.Fatalf("it ended with %d: %s", code, p.log)
		case <-time.After(time.Millisecond):
		}
		if content, err := os.ReadFile(portFile); err == nil {
			p.address = strings.TrimSpace(string(content))
			break
		}
	}
	t.Cleanup(func() {
		select {
		case p.signals <- syscall.SIGTERM:
		default:
		}
	})
	return p
}

// end sends SIGTERM and returns the exit code.
func (p *process) end() int {
	p.signals <- syscall.SIGTERM
	return <-p.ended
}

func noVariable(string) string { return "" }

func (p *process) dial(t *testing.T, config *tls.Config) *grpc.ClientConn {
	t.Helper()
	connection, err := leyline.Dial(p.address, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	return connection
}

func (p *process) policy(t *testing.T) leylinev1.PolicyServiceClient {
	t.Helper()
	return leylinev1.NewPolicyServiceClient(p.dial(t, nil))
}

// query is one that the heuristic answers with GERMINATE in the deepest slot.
func query(step uint32) *leylinev1.DecisionQuery {
	slots := make([]*leylinev1.SlotReading, 3)
	for depth := range slots {
		slots[depth] = &leylinev1.SlotReading{
			SlotId: "slot-" + string(rune('0'+depth)), Depth: uint32(depth), Stage: leylinev1.Stage_STAGE_DORMANT,
		}
	}
	return &leylinev1.DecisionQuery{
		Snapshot: &leylinev1.MultiSlotSnapshot{
			StepId: &leylinev1.StepId{RunId: "run", Step: step}, PlateauEpochs: 5, Slots: slots,
		},
		SpecFingerprint: observation.Seed().GetFingerprint(),
		Mode:            leylinev1.SelectionMode_SELECTION_MODE_SAMPLED,
	}
}

// refusal is what an error says; the test fails where there is none.
func refusal(t *testing.T, err error) *leyline.Error {
	t.Helper()
	if err == nil {
		t.Fatal("it was not refused")
	}
	return leyline.ErrorFromStatus(status.Convert(err).Proto())
}

func TestItSaysWhoItIsAndDecidesForEitherSpec(t *testing.T) {
	for _, spec := range []*leylinev1.ObservationSpec{observation.Seed(), observation.Extended()} {
		policy := start(t, "--spec", spec.GetName()).policy(t)
		info, err := policy.GetPolicyInfo(t.Context(), &leylinev1.GetPolicyInfoRequest{})
		if err != nil {
			t.Fatal(err)
		}
		want := &leylinev1.GetPolicyInfoResponse{
			Policy:          "heuristic",
			Implementation:  implementation,
			PolicyVersion:   "heuristic-1",
			SpecFingerprint: spec.GetFingerprint(),
			SpecName:        spec.GetName(),
			Slots:           &leylinev1.SlotRequirement{Slots: &leylinev1.SlotRequirement_Any{Any: true}},
			Deterministic:   true,
		}
		if !proto.Equal(info, want) {
			t.Errorf("got %v", info)
		}
		asked := query(1)
		asked.SpecFingerprint = info.GetSpecFingerprint()
		asked.PolicyVersion = proto.String(info.GetPolicyVersion())
		answer, err := policy.Decide(t.Context(), &leylinev1.DecideRequest{Query: asked})
		if err != nil {
			t.Fatal(err)
		}
		decision := answer.GetDecision()
		if decision.GetActionType() != leylinev1.ActionType_ACTION_TYPE_GERMINATE || decision.GetSlotId() != "slot-2" {
			t.Errorf("decided %v", decision)
		}
		if decision.GetPolicyVersion() != "heuristic-1" || decision.GetMode() != leylinev1.SelectionMode_SELECTION_MODE_GREEDY {
			t.Errorf("decided %v", decision)
		}
	}
}

// spoilt are queries that are refused.
var spoilt = []struct {
	name   string
	change func(*leylinev1.DecisionQuery)
	code   codes.Code
	reason string
	field  string
}{
	{"a stage that nobody knows", func(q *leylinev1.DecisionQuery) { q.Snapshot.Slots[1].Stage = 17 },
		codes.InvalidArgument, "INVALID_ARGUMENT", "query.snapshot.slots[1].stage"},
	{"no stage", func(q *leylinev1.DecisionQuery) { q.Snapshot.Slots[1].Stage = 0 },
		codes.InvalidArgument, "INVALID_ARGUMENT", "query.snapshot.slots[1].stage"},
	{"no snapshot", func(q *leylinev1.DecisionQuery) { q.Snapshot = nil },
		codes.InvalidArgument, "INVALID_ARGUMENT", "query.snapshot"},
	{"no mode", func(q *leylinev1.DecisionQuery) { q.Mode = 0 },
		codes.InvalidArgument, "INVALID_ARGUMENT", "query.mode"},
	{"a slot twice", func(q *leylinev1.DecisionQuery) { q.Snapshot.Slots[1] = q.Snapshot.Slots[0] },
		codes.InvalidArgument, "INVALID_ARGUMENT", "query.snapshot"},
	{"another spec", func(q *leylinev1.DecisionQuery) { q.SpecFingerprint = observation.Extended().GetFingerprint() },
		codes.FailedPrecondition, "FINGERPRINT_MISMATCH", ""},
	{"a version that is not here", func(q *leylinev1.DecisionQuery) { q.PolicyVersion = proto.String("mlp-000000000000") },
		codes.NotFound, "POLICY_VERSION_NOT_FOUND", ""},
}

func TestAQueryThatCannotBeAnsweredIsRefusedWithTheReasonAndTheField(t *testing.T) {
	policy := start(t).policy(t)
	for _, c := range spoilt {
		t.Run(c.name, func(t *testing.T) {
			asked := query(1)
			c.change(asked)
			ctx := metadata.AppendToOutgoingContext(t.Context(), "x-request-id", "my:call.1")
			_, err := policy.Decide(ctx, &leylinev1.DecideRequest{Query: asked})
			refused := refusal(t, err)
			if refused.Code != c.code || refused.Reason != c.reason || refused.RequestID != "my:call.1" || refused.Transient() {
				t.Errorf("got %+v", refused)
			}
			if c.field != "" && !slices.ContainsFunc(refused.Violations, func(v leyline.Violation) bool {
				return v.Field == c.field && v.Rule != "" && v.Description != ""
			}) {
				t.Errorf("blames %v, want %s", refused.Violations, c.field)
			}
		})
	}
	_, err := policy.Decide(t.Context(), &leylinev1.DecideRequest{})
	if refused := refusal(t, err); refused.Violations[0].Field != "query" {
		t.Errorf("no query: got %+v", refused)
	}
}

func TestAnErrorStaysSmallHoweverManyRulesAreBroken(t *testing.T) {
	asked := query(1)
	for range 64 {
		asked.Snapshot.Slots = append(asked.Snapshot.Slots, &leylinev1.SlotReading{SlotId: strings.Repeat("X", 500), Alpha: -7})
	}
	_, err := start(t).policy(t).Decide(t.Context(), &leylinev1.DecideRequest{Query: asked})
	refused := refusal(t, err)
	if refused.Reason != "INVALID_ARGUMENT" || len(refused.Violations) == 0 || len(refused.Violations) > 16 {
		t.Errorf("got %+v", refused)
	}
}

func TestOnAStreamAnswersComeInOrderAndErrorsInTheirPlace(t *testing.T) {
	policy := start(t).policy(t)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-request-id", "stream-1")
	stream, err := policy.StreamDecisions(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var asked []*leylinev1.DecisionQuery
	for place := range 100 {
		q := query(uint32(place))
		if place%2 == 1 {
			spoilt[place/2%len(spoilt)].change(q)
		}
		asked = append(asked, q)
	}
	go func() {
		for _, q := range asked {
			stream.Send(&leylinev1.StreamDecisionsRequest{Query: q})
		}
		stream.CloseSend()
	}()
	for place, q := range asked {
		response, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(response.GetStepId(), q.GetSnapshot().GetStepId()) {
			t.Errorf("answer %d is of step %v", place, response.GetStepId())
		}
		alone, err := policy.Decide(ctx, &leylinev1.DecideRequest{Query: q})
		if err == nil && !proto.Equal(response.GetDecision(), alone.GetDecision()) {
			t.Errorf("answer %d is %v, alone it is %v", place, response, alone)
		}
		// The contract wants the same status with the same details.
		if said := status.Convert(err).Proto(); err != nil && !proto.Equal(response.GetError(), said) {
			t.Errorf("answer %d is\n%v, alone it is\n%v", place, response.GetError(), said)
		}
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("then came %v", err)
	}
}

func TestManyStreamsAtOnceGetTheirOwnAnswers(t *testing.T) {
	policy := start(t).policy(t)
	var streams sync.WaitGroup
	for player := range uint32(16) {
		streams.Go(func() {
			stream, err := policy.StreamDecisions(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			for step := range uint32(50) {
				asked := query(1000*player + step)
				if err := stream.Send(&leylinev1.StreamDecisionsRequest{Query: asked}); err != nil {
					t.Error(err)
				}
				response, err := stream.Recv()
				if err != nil || response.GetStepId().GetStep() != 1000*player+step || response.GetDecision() == nil {
					t.Errorf("got %v, %v", response, err)
					return
				}
			}
		})
	}
	streams.Wait()
}

func TestAMessageThatIsTooLargeIsRefused(t *testing.T) {
	asked := query(1)
	asked.Snapshot.StepId.RunId = strings.Repeat("x", 5<<20)
	_, err := start(t).policy(t).Decide(t.Context(), &leylinev1.DecideRequest{Query: asked})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("got %v", err)
	}
}

func TestCallsBeyondTheLimitAreRefused(t *testing.T) {
	p := start(t, "--max-concurrent-rpcs", "1")
	ctx, leave := context.WithCancel(t.Context())
	watch, err := grpc_health_v1.NewHealthClient(p.dial(t, nil)).Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	other := p.policy(t)
	if _, err := other.Decide(t.Context(), &leylinev1.DecideRequest{Query: query(1)}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("got %v", err)
	}
	leave()
	for {
		_, err := other.Decide(t.Context(), &leylinev1.DecideRequest{Query: query(1)})
		if err == nil {
			return
		}
		if status.Code(err) != codes.ResourceExhausted {
			t.Fatal(err)
		}
	}
}

func TestHealthKnowsTheServerAndItsService(t *testing.T) {
	health := grpc_health_v1.NewHealthClient(start(t).dial(t, nil))
	for _, service := range []string{"", "leyline.v1.PolicyService"} {
		answer, err := health.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: service})
		if err != nil || answer.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
			t.Errorf("%q: %v, %v", service, answer, err)
		}
	}
	if _, err := health.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: "nobody"}); status.Code(err) != codes.NotFound {
		t.Errorf("got %v", err)
	}
}

func TestReflectionListsTheServices(t *testing.T) {
	stream, err := grpc_reflection_v1.NewServerReflectionClient(start(t).dial(t, nil)).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stream.Send(&grpc_reflection_v1.ServerReflectionRequest{
		MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{},
	})
	answer, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(answer.String(), "leyline.v1.PolicyService") || !strings.Contains(answer.String(), "grpc.health.v1.Health") {
		t.Errorf("got %v", answer)
	}
}

func TestSIGTERMSaysNotServingEndsTheStreamsAndExitsWithZero(t *testing.T) {
	p := start(t)
	connection := p.dial(t, nil)
	watch, err := grpc_health_v1.NewHealthClient(connection).Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if first, err := watch.Recv(); err != nil || first.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("health says %v, %v", first, err)
	}
	stream, err := leylinev1.NewPolicyServiceClient(connection).StreamDecisions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stream.Send(&leylinev1.StreamDecisionsRequest{Query: query(1)})
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	if code := p.end(); code != 0 {
		t.Errorf("exit code %d: %s", code, p.log)
	}
	if last, err := watch.Recv(); err != nil || last.GetStatus() != grpc_health_v1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("health says %v, %v", last, err)
	}
	if _, err := watch.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the watch of health ended with %v", err)
	}
	_, err = stream.Recv()
	if refused := refusal(t, err); refused.Reason != "SHUTTING_DOWN" || refused.RetryAfter != time.Second {
		t.Errorf("the stream ended with %+v", refused)
	}
	if strings.Contains(p.log.String(), `"level":"error"`) {
		t.Errorf("the log has errors: %s", p.log)
	}
}

func TestEachLineOfTheLogIsAnObjectThatNamesTheCall(t *testing.T) {
	p := start(t, "--log-level", "debug")
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-request-id", "named-1")
	if _, err := p.policy(t).Decide(ctx, &leylinev1.DecideRequest{Query: query(1)}); err != nil {
		t.Fatal(err)
	}
	p.end()
	var call map[string]any
	for line := range strings.Lines(p.log.String()) {
		var entry map[string]any
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if entry["event"] == "call" {
			call = entry
		}
	}
	for name, want := range map[string]any{
		"request_id": "named-1", "method": "/leyline.v1.PolicyService/Decide", "code": "OK", "run_id": "run",
		"policy_version": "heuristic-1", "level": "debug", "service": program,
	} {
		if call[name] != want {
			t.Errorf("%s is %v, want %v", name, call[name], want)
		}
	}
}

func TestAUnixSocketIsTakenOverFromADeadServerAndNotFromALivingOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	p := start(t, "--listen", "unix:"+path)
	if _, err := p.policy(t).GetPolicyInfo(t.Context(), &leylinev1.GetPolicyInfoRequest{}); err != nil {
		t.Error(err)
	}
	if code, said := failing(t, nil, "--listen", "unix:"+path); code != 3 || !strings.Contains(said, "in use") {
		t.Errorf("a second server ended with %d: %s", code, said)
	}
	if code := p.end(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// failing runs a server that cannot start, and returns its exit code and what it said.
func failing(t *testing.T, variables map[string]string, arguments ...string) (int, string) {
	t.Helper()
	var said bytes.Buffer
	variable := func(name string) string { return variables[name] }
	code := run(arguments, variable, make(chan os.Signal), io.Discard, &said)
	return code, said.String()
}

func TestAServerThatCannotStartSaysWhyInALineAndByItsExitCode(t *testing.T) {
	folder := t.TempDir()
	file := filepath.Join(folder, "file")
	if err := os.WriteFile(file, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	busy := start(t).address
	for name, c := range map[string]struct {
		variables map[string]string
		arguments []string
		code      int
		says      []string
	}{
		"a port in use": {nil, []string{"--listen", busy}, 3,
			[]string{busy + " is in use by another process", "LEYLINE_TAMIYO_LISTEN"}},
		"plain text beyond this machine": {nil, []string{"--listen", "0.0.0.0:50052"}, 2,
			[]string{"LEYLINE_TAMIYO_LISTEN=0.0.0.0:50052 would take plain text from other machines", "--insecure"}},
		"a host name is not known to be this machine": {nil, []string{"--listen", "here:0"}, 2, []string{"--insecure"}},
		"an address of another machine":               {nil, []string{"--listen", "192.0.2.1:0", "--insecure"}, 1, []string{"cannot listen on 192.0.2.1:0"}},
		"no port":                                     {nil, []string{"--listen", "127.0.0.1"}, 2, []string{"listen", "HOST:PORT"}},
		"a relative socket":                           {nil, []string{"--listen", "unix:socket"}, 2, []string{"absolute path"}},
		"a file in the place of the socket":           {nil, []string{"--listen", "unix:" + file}, 1, []string{"no socket"}},
		"a spec that does not exist":                  {nil, []string{"--spec", "sead"}, 2, []string{"seed, extended"}},
		"an unknown flag":                             {nil, []string{"--polcy", "x"}, 2, []string{"polcy"}},
		"an argument too many":                        {nil, []string{"heuristic"}, 2, []string{"heuristic"}},
		"a certificate without its key":               {nil, []string{"--tls-certificate", file}, 2, []string{"LEYLINE_TAMIYO_TLS_KEY is missing"}},
		"a certificate that is none":                  {nil, []string{"--tls-certificate", file, "--tls-key", file}, 2, []string{file}},
		"authorities without a certificate":           {nil, []string{"--tls-client-ca", file}, 2, []string{"LEYLINE_TAMIYO_TLS_CLIENT_CA"}},
		"two variables, a line for each": {
			map[string]string{"LEYLINE_TAMIYO_DRAIN_GRACE_S": "-1", "LEYLINE_TAMIYO_MAX_CONCURRENT_RPCS": "many"}, nil, 2,
			[]string{"LEYLINE_TAMIYO_DRAIN_GRACE_S=-1", "LEYLINE_TAMIYO_MAX_CONCURRENT_RPCS=many"}},
	} {
		t.Run(name, func(t *testing.T) {
			code, said := failing(t, c.variables, c.arguments...)
			if code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			for _, want := range c.says {
				if !strings.Contains(said, want) {
					t.Errorf("it does not say %q: %s", want, said)
				}
			}
			for line := range strings.Lines(said) {
				if !strings.HasPrefix(line, program+": error: ") && !strings.HasPrefix(line, "{") {
					t.Errorf("odd line: %s", line)
				}
			}
		})
	}
}

func TestAFlagWinsOverAVariableAndAnEmptyVariableIsNone(t *testing.T) {
	variables := map[string]string{"LEYLINE_TAMIYO_SPEC": "nonsense", "LEYLINE_TAMIYO_LOG_LEVEL": "", "LEYLINE_TAMIYO_LISTEN": "0.0.0.0:0"}
	code, said := failing(t, variables, "--spec", "seed")
	if code != 2 || !strings.Contains(said, "0.0.0.0:0") || strings.Contains(said, "nonsense") || strings.Contains(said, "LOG_LEVEL") {
		t.Errorf("exit code %d: %s", code, said)
	}
}

func TestHelpShowsExamples(t *testing.T) {
	var said bytes.Buffer
	if code := run([]string{"--help"}, noVariable, nil, &said, io.Discard); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if !strings.Contains(said.String(), "tamiyo_go --spec extended") || !strings.Contains(said.String(), "--drain-grace-s SECONDS") {
		t.Errorf("it says %s", &said)
	}
}
