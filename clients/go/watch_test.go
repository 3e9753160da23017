package leyline

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

type event uint64

func (e event) GetSequence() uint64 { return uint64(e) }

// script is a stream that plays events and then ends with an error.
type script struct {
	events []event
	end    error
}

func (s *script) Recv() (event, error) {
	if len(s.events) == 0 {
		return 0, s.end
	}
	next := s.events[0]
	s.events = s.events[1:]
	return next, nil
}

var away = status.Error(codes.Unavailable, "nobody is there")

func retryIn(delay time.Duration) error {
	detailed, err := status.New(codes.ResourceExhausted, "full").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(delay)})
	if err != nil {
		panic(err)
	}
	return detailed.Err()
}

func TestAWatchGoesOnBehindTheEventThatCameLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		streams := []*script{
			{[]event{6, 7}, away},
			{nil, away},
			{nil, retryIn(20 * time.Second)},
			{[]event{8}, io.EOF},
		}
		var asked []uint64
		var waits []time.Duration
		last := time.Now()
		open := func(_ context.Context, after uint64) (receiver[event], error) {
			asked, waits = append(asked, after), append(waits, time.Since(last))
			last = time.Now()
			next := streams[0]
			streams = streams[1:]
			return next, nil
		}
		var seen []event
		for event, err := range watch(t.Context(), 5, open) {
			if err != nil {
				t.Fatal(err)
			}
			seen = append(seen, event)
		}
		if !slices.Equal(seen, []event{6, 7, 8}) {
			t.Errorf("saw %v", seen)
		}
		if !slices.Equal(asked, []uint64{5, 7, 7, 7}) {
			t.Errorf("asked for events after %v", asked)
		}
		// It waits longer each time, and as long as the server asks it to.
		if want := []time.Duration{0, firstWait, 2 * firstWait, 20 * time.Second}; !slices.Equal(waits, want) {
			t.Errorf("waited %v, want %v", waits, want)
		}
	})
}

func TestAWatchGivesUpWhenTheServiceIsAwayForAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		started := time.Now()
		open := func(context.Context, uint64) (receiver[event], error) { return nil, away }
		for _, err := range watch(t.Context(), 0, open) {
			var failed *Error
			if !errors.As(err, &failed) || failed.Code != codes.Unavailable {
				t.Errorf("ended with %v", err)
			}
		}
		if took := time.Since(started); took < patience || took > patience+longestWait {
			t.Errorf("gave up after %v", took)
		}
	})
}

func TestARefusalEndsAWatchAtOnce(t *testing.T) {
	calls := 0
	open := func(context.Context, uint64) (receiver[event], error) {
		calls++
		return nil, status.Error(codes.NotFound, "no such run")
	}
	for _, err := range watch(t.Context(), 0, open) {
		var failed *Error
		if !errors.As(err, &failed) || failed.Code != codes.NotFound {
			t.Errorf("ended with %v", err)
		}
	}
	if calls != 1 {
		t.Errorf("called %d times", calls)
	}
}

func TestTheEndOfItsContextEndsAWatchThatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		open := func(context.Context, uint64) (receiver[event], error) { return nil, away }
		for _, err := range watch(ctx, 0, open) {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("ended with %v", err)
			}
		}
	})
}

func TestWhoLeavesTheLoopLeavesNoStreamBehind(t *testing.T) {
	var opened context.Context
	open := func(ctx context.Context, _ uint64) (receiver[event], error) {
		opened = ctx
		return &script{[]event{1, 2}, io.EOF}, nil
	}
	for range watch(t.Context(), 0, open) {
		break
	}
	if opened.Err() == nil {
		t.Error("the stream's context lives on")
	}
}
