package chassis

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// callSeconds go from a decision to an episode's stream, as they do in Python: quantiles over servers of both languages need
// the same.
var callSeconds = []float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 600}

// newRegistry makes a registry that has the process's own numbers: memory, processor time, open files, Go's runtime.
func newRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		// Of memory by its classes, since go_memstats_alloc_bytes is both a gauge and a counter, which OpenMetrics forbids.
		collectors.NewGoCollector(
			collectors.WithGoCollectorMemStatsMetricsDisabled(),
			collectors.WithGoCollectorRuntimeMetrics(collectors.MetricsMemory),
		),
	)
	return registry
}

// method is one of a service's.
type method struct {
	kind    string
	service string
	name    string
}

func methodOf(service, name string, streamsIn, streamsOut bool) method {
	kind := "unary"
	switch {
	case streamsIn && streamsOut:
		kind = "bidi_stream"
	case streamsIn:
		kind = "client_stream"
	case streamsOut:
		kind = "server_stream"
	}
	return method{kind, service, name}
}

// String is as gRPC writes it.
func (m method) String() string { return "/" + m.service + "/" + m.name }

// callMetrics are calls by method. Names and labels are those of go-grpc-middleware's interceptors; codes are written as in
// gRPC's specification, where those interceptors write them as Go does.
type callMetrics struct {
	started *prometheus.CounterVec
	handled *prometheus.CounterVec
	seconds *prometheus.HistogramVec
}

func newCallMetrics(registry prometheus.Registerer) *callMetrics {
	factory, ofMethod := promauto.With(registry), []string{"grpc_type", "grpc_service", "grpc_method"}
	return &callMetrics{
		started: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "grpc_server_started_total", Help: "Calls that began.",
		}, ofMethod),
		handled: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "grpc_server_handled_total", Help: "Calls that ended, by status code.",
		}, append(ofMethod, "grpc_code")),
		seconds: factory.NewHistogramVec(prometheus.HistogramOpts{
			Name: "grpc_server_handling_seconds", Help: "From the beginning of a call to its end, in seconds.",
			Buckets: callSeconds,
		}, ofMethod),
	}
}

// began counts a call that begins.
func (m *callMetrics) began(of method) {
	m.started.WithLabelValues(of.kind, of.service, of.name).Inc()
}

// ended counts a call that has ended.
func (m *callMetrics) ended(of method, code string, took time.Duration) {
	m.handled.WithLabelValues(of.kind, of.service, of.name, code).Inc()
	m.seconds.WithLabelValues(of.kind, of.service, of.name).Observe(took.Seconds())
}
