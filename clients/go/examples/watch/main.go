// Watch starts a run on the growth simulator, watches it to its end, and lists the policy versions that there are.
//
//	go run ./examples/watch --trainer 127.0.0.1:50051 --registry 127.0.0.1:50053 --episodes 20
//	go run ./examples/watch --trainer trainer:50051 --registry registry:50053 --credentials operator
//
// The folder of credentials, which `leyline certs` made, may also stand in LEYLINE_CREDENTIALS.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"

	leyline "leyline/clients/go"
	"leyline/clients/go/leylinev1"
)

func main() {
	trainer := flag.String("trainer", "127.0.0.1:50051", "`address` of the trainer")
	registry := flag.String("registry", "127.0.0.1:50053", "`address` of the registry of policies")
	runID := flag.String("run-id", "", "`name` for the run; the trainer chooses one where it is empty")
	episodes := flag.Uint("episodes", 20, "episodes to play")
	seed := flag.Uint64("seed", 1, "seed of everything that is random")
	folder := flag.String("credentials", os.Getenv("LEYLINE_CREDENTIALS"), "`folder` with what to show and whom to trust; none: plain text")
	flag.Parse()
	var credentials leyline.Credentials
	if *folder != "" {
		credentials = leyline.CredentialsIn(*folder)
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	spec := &leylinev1.RunSpec{
		Title:    "the growth simulator, from Go",
		Host:     &leylinev1.HostSpec{Name: "simulator"},
		Episodes: uint32(*episodes),
		Seed:     *seed,
	}
	err := watchRun(ctx, *trainer, credentials, *runID, spec)
	if err == nil {
		err = listPolicies(ctx, *registry, credentials)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "watch:", err)
		os.Exit(1)
	}
}

func watchRun(ctx context.Context, address string, credentials leyline.Credentials, runID string, spec *leylinev1.RunSpec) error {
	connection, err := leyline.Dial(address, credentials)
	if err != nil {
		return err
	}
	defer connection.Close()
	trainer := leyline.NewTrainer(connection)
	run, err := trainer.Start(ctx, runID, spec)
	if err != nil {
		return err
	}
	fmt.Println("run", run.GetRunId())
	for event, err := range trainer.Watch(ctx, run.GetRunId(), 0) {
		if err != nil {
			return err
		}
		show(event)
	}
	return nil
}

func show(event *leylinev1.WatchRunResponse) {
	switch event := event.GetEvent().(type) {
	case *leylinev1.WatchRunResponse_StateChanged:
		fmt.Println("state", strings.TrimPrefix(event.StateChanged.GetState().String(), "RUN_STATE_"), event.StateChanged.GetMessage())
	case *leylinev1.WatchRunResponse_StepDecided:
		decided := event.StepDecided
		fmt.Printf("  step %2d: %s %s, decided by %s\n",
			decided.GetStepId().GetStep(),
			strings.TrimPrefix(decided.GetDecision().GetActionType().String(), "ACTION_TYPE_"),
			decided.GetDecision().GetSlotId(),
			cmp.Or(decided.GetDecision().GetPolicyVersion(), decided.GetFallbackReason()))
	case *leylinev1.WatchRunResponse_StepCompleted:
		fmt.Printf("           accuracy %.1f %%\n", 100*event.StepCompleted.GetNextSnapshot().GetValAccuracy())
	case *leylinev1.WatchRunResponse_EpisodeEnded:
		ended := event.EpisodeEnded
		fmt.Printf("episode %d: %s after %d steps\n",
			ended.GetEpisodeIndex(), strings.TrimPrefix(ended.GetTermination().String(), "TERMINATION_"), ended.GetSteps())
	}
}

func listPolicies(ctx context.Context, address string, credentials leyline.Credentials) error {
	connection, err := leyline.Dial(address, credentials)
	if err != nil {
		return err
	}
	defer connection.Close()
	for policy, err := range leyline.NewRegistry(connection).Policies(ctx) {
		if err != nil {
			return err
		}
		note := ""
		if policy.Active {
			note = " (active)"
		}
		fmt.Printf("policy %s%s\n", policy.Manifest.GetPolicyVersion(), note)
	}
	return nil
}
