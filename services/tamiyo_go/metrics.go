package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"leyline/clients/go/leylinev1"
	"leyline/services/tamiyo_go/internal/chassis"
)

// The bounds of Python's histograms: quantiles over servers of both languages need the same.
var (
	decisionSeconds = []float64{0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5}
	batchSizes      = []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512}
)

// policyMetrics are the decisions of one policy. None has an episode, a run or a version for a label.
type policyMetrics struct {
	decisions map[leylinev1.ActionType]prometheus.Counter
	errors    *prometheus.CounterVec
	seconds   prometheus.Histogram
	sizes     prometheus.Histogram
}

func newPolicyMetrics(registry prometheus.Registerer) *policyMetrics {
	factory := promauto.With(registry)
	decisions := factory.NewCounterVec(prometheus.CounterOpts{
		Name: "leyline_decisions_total", Help: "Decisions made.",
	}, []string{"action_type"})
	m := &policyMetrics{
		decisions: map[leylinev1.ActionType]prometheus.Counter{},
		errors: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "leyline_decision_errors_total", Help: "Queries that got an error instead, by its reason.",
		}, []string{"reason"}),
		seconds: factory.NewHistogram(prometheus.HistogramOpts{
			Name: "leyline_decision_seconds", Help: "From a query's arrival to its decision, in seconds.",
			Buckets: decisionSeconds,
		}),
		sizes: factory.NewHistogram(prometheus.HistogramOpts{
			Name: "leyline_decision_batch_size", Help: "Queries that a version answered together.",
			Buckets: batchSizes,
		}),
	}
	for number, name := range leylinev1.ActionType_name {
		// Those that are never decided stand at 0: a counter that begins with its first event hides it from rate().
		if action := leylinev1.ActionType(number); action != leylinev1.ActionType_ACTION_TYPE_UNSPECIFIED {
			m.decisions[action] = decisions.WithLabelValues(strings.TrimPrefix(name, "ACTION_TYPE_"))
		}
	}
	return m
}

// decided counts a decision. The heuristic answers each query alone.
func (m *policyMetrics) decided(decision *leylinev1.Decision, took time.Duration) {
	m.decisions[decision.GetActionType()].Inc()
	m.seconds.Observe(took.Seconds())
	m.sizes.Observe(1)
}

// failed counts a query that got an error. A caller who did not wait for an answer got none.
func (m *policyMetrics) failed(err error) {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return
	}
	reason := chassis.Internal
	var refusal *chassis.Refusal
	if errors.As(err, &refusal) {
		reason = refusal.Reason
	}
	m.errors.WithLabelValues(reason.String()).Inc()
}
