package leyline

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"
)

const (
	// patience is how long a service may be away before a watch of it fails.
	patience    = time.Minute
	firstWait   = 200 * time.Millisecond
	longestWait = 5 * time.Second
)

// numbered is an event that says its place among all events of its kind.
type numbered interface {
	GetSequence() uint64
}

// receiver is a stream of events.
type receiver[Event any] interface {
	Recv() (Event, error)
}

// watch yields events after a sequence, each once, and opens the stream again after each break: later after each, until
// there is news again.
func watch[Event numbered](
	ctx context.Context, after uint64, open func(ctx context.Context, after uint64) (receiver[Event], error),
) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		var none Event
		// Whoever leaves the loop early leaves no stream behind.
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		heard, wait := time.Now(), firstWait
		for {
			called := time.Now()
			stream, err := open(ctx, after)
			for err == nil {
				var event Event
				if event, err = stream.Recv(); err == nil {
					after, heard, wait = event.GetSequence(), time.Now(), firstWait
					if !yield(event, nil) {
						return
					}
				}
			}
			if errors.Is(err, io.EOF) {
				return
			}
			if ctx.Err() != nil {
				yield(none, context.Cause(ctx))
				return
			}
			failed := errorFrom(err)
			if time.Since(called) > patience {
				heard = time.Now() // a call that stood so long was with a service that is there
			}
			if !failed.Transient() || time.Since(heard) >= patience {
				yield(none, failed)
				return
			}
			select {
			case <-ctx.Done():
				yield(none, context.Cause(ctx))
				return
			case <-time.After(max(wait, failed.RetryAfter)):
				wait = min(2*wait, longestWait)
			}
		}
	}
}
