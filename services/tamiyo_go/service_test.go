package main

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

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

func (p *process) dial(t *testing.T, credentials leyline.Credentials) *grpc.ClientConn {
	t.Helper()
	connection, err := leyline.Dial(p.address, credentials)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	return connection
}

func (p *process) policy(t *testing.T) leylinev1.PolicyServiceClient {
	t.Helper()
	return leylinev1.NewPolicyServiceClient(p.dial(t, leyline.Credentials{}))
}

// ask is the smallest call.
func ask(t *testing.T, connection *grpc.ClientConn, options ...grpc.CallOption) error {
	t.Helper()
	_, err := leylinev1.NewPolicyServiceClient(connection).GetPolicyInfo(t.Context(), &leylinev1.GetPolicyInfoRequest{}, options...)
	return err
}

// decides asks on a stream.
func decides(t *testing.T, stream grpc.BidiStreamingClient[leylinev1.StreamDecisionsRequest, leylinev1.StreamDecisionsResponse]) {
	t.Helper()
	stream.Send(&leylinev1.StreamDecisionsRequest{Query: query(1)})
	if answer, err := stream.Recv(); err != nil || answer.GetDecision() == nil {
		t.Errorf("the stream answers %v, %v", answer, err)
	}
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

func TestATraceparentChangesNoDecisionAndABrokenOneGetsItsErrorInItsPlace(t *testing.T) {
	stream, err := start(t).policy(t).StreamDecisions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	traced := "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	answer := func(traceparent *string) *leylinev1.StreamDecisionsResponse {
		t.Helper()
		request := &leylinev1.StreamDecisionsRequest{Query: query(1), Traceparent: traceparent}
		if err := stream.Send(request); err != nil {
			t.Fatal(err)
		}
		response, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return response
	}
	if untraced := answer(nil); !proto.Equal(answer(&traced), untraced) {
		t.Errorf("with a traceparent it is not %v", untraced)
	}
	said := leyline.ErrorFromStatus(answer(proto.String("nonsense")).GetError())
	if said.Reason != "INVALID_ARGUMENT" || len(said.Violations) != 1 || said.Violations[0].Field != "traceparent" {
		t.Errorf("got %v", said)
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
	watch, err := grpc_health_v1.NewHealthClient(p.dial(t, leyline.Credentials{})).Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
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
	health := grpc_health_v1.NewHealthClient(start(t).dial(t, leyline.Credentials{}))
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
	stream, err := grpc_reflection_v1.NewServerReflectionClient(start(t).dial(t, leyline.Credentials{})).ServerReflectionInfo(t.Context())
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
