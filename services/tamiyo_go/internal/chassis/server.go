// Package chassis is all of a server but what it serves: settings, logs, its life, health, and what surrounds every call. It
// does what the Python services' package of the same name does.
package chassis

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
)

// leastPingInterval is how often a client may ask whether the server is there; ours do it every ten seconds at most.
const leastPingInterval = 5 * time.Second

// Server is a gRPC server with health, reflection, and everything around a call. Register services with GRPC, then Serve.
type Server struct {
	GRPC registrar
	// Draining is closed when the server begins to stop; for streams that wait.
	Draining <-chan struct{}
	// Metrics are what GET /metrics shows, where the settings want it; for more of them.
	Metrics prometheus.Registerer

	settings Settings
	log      *slog.Logger
	health   *health
	endpoint *metricsEndpoint
	drain    chan struct{}
}

// NewServer makes a server; nothing is bound yet. The services' full names are for health. The error is a [*SettingsError]
// where a certificate or the tokens cannot be used.
func NewServer(settings Settings, log *slog.Logger, services ...string) (*Server, error) {
	metrics := newRegistry()
	around := &calls{
		log:             log,
		defaultDeadline: settings.DefaultDeadline,
		limits:          newLimits(settings),
		metrics:         newCallMetrics(metrics),
		certified:       settings.TLSClientCA != "",
	}
	if settings.Tokens != "" {
		var err error
		if around.callers, err = newCallers(settings.Tokens, log); err != nil {
			return nil, err
		}
	}
	options := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(settings.MaxMessageBytes),
		grpc.MaxSendMsgSize(settings.MaxMessageBytes),
		// Of one connection; further ones wait at the client. More than may be open: who asks for too much is told so, and
		// does not just wait.
		grpc.MaxConcurrentStreams(uint32(settings.MaxConcurrentRPCs + strangersWatches)),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge:      settings.MaxConnectionAge,
			MaxConnectionAgeGrace: settings.MaxConnectionAgeGrace,
			Time:                  settings.Keepalive,
			Timeout:               settings.KeepaliveTimeout,
		}),
		// A stream that waits for a whole training interval is silent, not dead.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: leastPingInterval, PermitWithoutStream: true}),
	}
	// One for everything that listens: the files are read once, and what is shown is what they were read as.
	var shown *certificates
	if settings.TLSCertificate != "" {
		var err error
		if shown, err = newCertificates(settings, log); err != nil {
			return nil, err
		}
		options = append(options, grpc.Creds(credentials.NewTLS(shown.config())))
		metrics.MustRegister(shown)
	}
	drain := make(chan struct{})
	s := &Server{
		GRPC:     registrar{grpc.NewServer(options...), around},
		Draining: drain,
		Metrics:  metrics,
		settings: settings,
		log:      log,
		health:   newHealth(services),
		endpoint: newMetricsEndpoint(metrics, shown, log),
		drain:    drain,
	}
	grpc_health_v1.RegisterHealthServer(s.GRPC, s.health)
	reflection.Register(s.GRPC)
	return s, nil
}

// Serve binds, serves what has been registered, and drains at a signal: health says NOT_SERVING first, then the waiting
// streams end, then open calls get the grace, which a second signal cuts short. The error is a [*BindError], or one of the
// port file's or of a listener that broke.
func (s *Server) Serve(signals <-chan os.Signal) error {
	listener, address, err := s.settings.Listen.bind()
	if err != nil {
		return &BindError{s.settings.Listen, "listen", err}
	}
	defer listener.Close()
	if s.settings.MetricsListen.IsSet() {
		if err := s.endpoint.start(s.settings.MetricsListen); err != nil {
			return err
		}
		// As long as calls are answered, so that the last of them are seen, too.
		defer s.endpoint.stop()
	}
	// Before anybody is told where: whoever learns of the address finds a server that serves.
	s.health.open()
	s.log.Info("serving", "address", address.String(), "tls", s.settings.TLSCertificate != "",
		"asks_for_tokens", s.settings.Tokens != "", "asks_for_certificates", s.settings.TLSClientCA != "")
	if s.settings.PortFile != "" {
		if err := writeWhole(s.settings.PortFile, address.String()+"\n"); err != nil {
			return err
		}
	}
	ended := make(chan error, 1)
	go func() { ended <- s.GRPC.Serve(listener) }()
	select {
	case err := <-ended:
		return err
	case signal := <-signals:
		s.log.Info("signal", "signal", signal.String())
	}
	s.stop(signals)
	return nil
}

func (s *Server) stop(signals <-chan os.Signal) {
	started := time.Now()
	s.health.end()
	close(s.drain)
	s.log.Info("draining", "grace_s", s.settings.DrainGrace.Seconds())
	stopped := make(chan struct{})
	go func() {
		s.GRPC.GracefulStop()
		close(stopped)
	}()
	select {
	case <-stopped:
	case <-signals:
	case <-time.After(s.settings.DrainGrace):
	}
	s.GRPC.Stop()
	s.log.Info("stopped", "duration_s", time.Since(started).Seconds())
}

// BindError says that an address cannot be listened on.
type BindError struct {
	Address Address
	setting string
	cause   error
}

// InUse says whether somebody else listens there.
func (e *BindError) InUse() bool { return errors.Is(e.cause, syscall.EADDRINUSE) }

func (e *BindError) Error() string {
	remedy := fmt.Sprintf("set %s (--%s) to another address", variableOf(e.setting), e.setting)
	if e.InUse() {
		return fmt.Sprintf("%s is in use by another process; stop it, or %s", e.Address, remedy)
	}
	return fmt.Sprintf("cannot listen on %s: %v; %s", e.Address, rootOf(e.cause), remedy)
}

// rootOf leaves out what the net package says around a cause.
func rootOf(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}

// writeWhole writes a file so that nobody who waits for it reads half of it.
func writeWhole(path, content string) error {
	draft := path + ".draft"
	if err := os.WriteFile(draft, []byte(content), 0o644); err != nil {
		return err
	}
	return os.Rename(draft, path)
}
