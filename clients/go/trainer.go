package leyline

import (
	"context"
	"iter"

	"google.golang.org/grpc"

	"leyline/clients/go/leylinev1"
)

// Trainer starts runs and watches them.
type Trainer struct {
	stub leylinev1.TrainerServiceClient
}

// NewTrainer calls the trainer at the other end of a connection. It may be used by several goroutines at once.
func NewTrainer(connection grpc.ClientConnInterface) *Trainer {
	return &Trainer{leylinev1.NewTrainerServiceClient(connection)}
}

// Start queues a run. An empty id lets the trainer choose one; with an id the call can be repeated: the same
// specification again returns the run that there is.
//
// Reasons of an [*Error]: INVALID_ARGUMENT with the fields to blame, UNKNOWN_HOST and the like, DATASET_NOT_FOUND,
// RUN_EXISTS, QUEUE_FULL, DISK_FULL.
func (t *Trainer) Start(ctx context.Context, runID string, spec *leylinev1.RunSpec) (*leylinev1.Run, error) {
	answer, err := t.stub.StartRun(ctx, &leylinev1.StartRunRequest{RunId: runID, Spec: spec})
	if err != nil {
		return nil, callError(ctx, err)
	}
	return answer.GetRun(), nil
}

// Get returns a run as it is now. Reason of an [*Error]: RUN_NOT_FOUND.
func (t *Trainer) Get(ctx context.Context, runID string) (*leylinev1.Run, error) {
	answer, err := t.stub.GetRun(ctx, &leylinev1.GetRunRequest{RunId: runID})
	if err != nil {
		return nil, callError(ctx, err)
	}
	return answer.GetRun(), nil
}

// Watch yields what happens in a run until it ends: events with a higher sequence than after, each once and in order; 0
// means from the first on. Whenever the connection breaks or the trainer is away, it calls again and goes on behind the
// event that came last.
//
// An error is the last thing that it yields: that of the context, or an [*Error], RUN_NOT_FOUND or UNAVAILABLE for a
// minute. After it, or after a break out of the loop, another Watch may go on from the last sequence.
func (t *Trainer) Watch(ctx context.Context, runID string, after uint64) iter.Seq2[*leylinev1.WatchRunResponse, error] {
	return watch(ctx, after, func(ctx context.Context, after uint64) (receiver[*leylinev1.WatchRunResponse], error) {
		return t.stub.WatchRun(ctx, &leylinev1.WatchRunRequest{RunId: runID, AfterSequence: after})
	})
}

// callError prefers the context's error, which the caller has made, to what gRPC makes of it.
func callError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errorFrom(err)
}
