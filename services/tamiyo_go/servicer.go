package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"leyline/clients/go/leylinev1"
	"leyline/clients/go/rules"
	"leyline/services/tamiyo_go/internal/chassis"
	"leyline/services/tamiyo_go/internal/heuristic"
)

// implementation says who serves, for people.
const implementation = "tamiyo_go 0.1.0"

// servicer is the contract's PolicyService over the heuristic. Nothing in it decides.
type servicer struct {
	leylinev1.UnimplementedPolicyServiceServer
	spec     *leylinev1.ObservationSpec
	draining <-chan struct{}
	metrics  *policyMetrics
}

// GetPolicyInfo says who decides.
func (s *servicer) GetPolicyInfo(context.Context, *leylinev1.GetPolicyInfoRequest) (*leylinev1.GetPolicyInfoResponse, error) {
	return &leylinev1.GetPolicyInfoResponse{
		Policy:          heuristic.Name,
		Implementation:  implementation,
		PolicyVersion:   heuristic.Version,
		SpecFingerprint: s.spec.GetFingerprint(),
		SpecName:        s.spec.GetName(),
		Slots:           &leylinev1.SlotRequirement{Slots: &leylinev1.SlotRequirement_Any{Any: true}},
		Deterministic:   true,
	}, nil
}

// Decide decides once.
func (s *servicer) Decide(ctx context.Context, request *leylinev1.DecideRequest) (*leylinev1.DecideResponse, error) {
	arrived := time.Now()
	// What is refused on arrival is counted as a call, and not as a query: it need not have had one.
	if err := admit(ctx, request); err != nil {
		return nil, err
	}
	decision, err := s.decide(ctx, request.GetQuery(), arrived)
	if err != nil {
		return nil, err
	}
	return &leylinev1.DecideResponse{Decision: decision}, nil
}

// StreamDecisions decides query after query; what is wrong with one is said in its place, as Decide would say it.
func (s *servicer) StreamDecisions(
	stream grpc.BidiStreamingServer[leylinev1.StreamDecisionsRequest, leylinev1.StreamDecisionsResponse],
) error {
	call := chassis.CurrentCall(stream.Context())
	for request, err := range chassis.Incoming(stream, s.draining) {
		if err != nil {
			return err
		}
		response := &leylinev1.StreamDecisionsResponse{StepId: request.GetQuery().GetSnapshot().GetStepId()}
		decision, err := s.decideOnStream(stream.Context(), request)
		if refusal, isRefusal := err.(*chassis.Refusal); isRefusal {
			response.Outcome = &leylinev1.StreamDecisionsResponse_Error{Error: refusal.Status(call.RequestID)}
		} else if err != nil {
			return err
		} else {
			response.Outcome = &leylinev1.StreamDecisionsResponse_Decision{Decision: decision}
		}
		if err := stream.Send(response); err != nil {
			return err
		}
	}
	return nil
}

// decideOnStream decides once. The rules of the query are those of Decide; what stands beside it has some of its own.
func (s *servicer) decideOnStream(ctx context.Context, request *leylinev1.StreamDecisionsRequest) (*leylinev1.Decision, error) {
	arrived := time.Now()
	if err := admit(ctx, request, &leylinev1.DecideRequest{Query: request.GetQuery()}); err != nil {
		s.metrics.failed(err)
		return nil, err
	}
	return s.decide(ctx, request.GetQuery(), arrived)
}

// decide decides on a valid query.
func (s *servicer) decide(ctx context.Context, query *leylinev1.DecisionQuery, arrived time.Time) (*leylinev1.Decision, error) {
	if err := s.refuse(ctx, query); err != nil {
		s.metrics.failed(err)
		return nil, err
	}
	decision := heuristic.Decide(query)
	s.metrics.decided(decision, time.Since(arrived))
	return decision, nil
}

// refuse says that a query is for another policy: a [*chassis.Refusal]. It is nil where it is for this one.
func (s *servicer) refuse(ctx context.Context, query *leylinev1.DecisionQuery) error {
	call, step := chassis.CurrentCall(ctx), query.GetSnapshot().GetStepId()
	call.Note("run_id", step.GetRunId())
	call.Note("episode", step.GetEpisodeIndex())
	if pinned := query.GetPolicyVersion(); query.PolicyVersion != nil && pinned != heuristic.Version {
		return &chassis.Refusal{
			Reason:  chassis.PolicyVersionNotFound,
			Message: fmt.Sprintf("there is no policy version '%s'", pinned),
			Facts:   chassis.Facts{"policy_version": pinned},
		}
	}
	call.Note("policy_version", heuristic.Version)
	if given, expected := query.GetSpecFingerprint(), s.spec.GetFingerprint(); given != expected {
		return &chassis.Refusal{
			Reason:  chassis.FingerprintMismatch,
			Message: fmt.Sprintf("the observation's fingerprint is %s, the policy was made for %s", given, expected),
			Facts: chassis.Facts{
				"given": given, "expected": expected, "spec_name": s.spec.GetName(), "policy_version": heuristic.Version,
			},
		}
	}
	return nil
}

// admit refuses messages that break a rule of the contract.
func admit(ctx context.Context, messages ...proto.Message) error {
	for _, message := range messages {
		// Nothing is computed for a caller who does not wait any longer.
		if err := ctx.Err(); err != nil {
			return err
		}
		broken, err := rules.Violations(message)
		if err != nil {
			return err
		}
		if broken != nil {
			return chassis.RefuseInvalid(broken)
		}
	}
	return nil
}
