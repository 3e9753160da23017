// Tamiyo_go serves the policy "heuristic" by Leyline's contract: a second implementation of PolicyService, and an example of
// one that is not written in Python.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc/health/grpc_health_v1"

	leyline "leyline/clients/go"
	"leyline/clients/go/leylinev1"
	"leyline/clients/go/observation"
	"leyline/services/tamiyo_go/internal/chassis"
)

const program = "tamiyo_go"

const description = "Serve the policy heuristic: hand-written rules for when and where a network grows."

const examples = `examples:
  tamiyo_go
      serves on 127.0.0.1:50052; leyline serve kasmina --policy default=127.0.0.1:50052 asks it
  tamiyo_go --spec extended --listen unix:/run/leyline/tamiyo.sock
      answers runs that observe by the extended spec, over a Unix socket
  tamiyo_go --listen 127.0.0.1:0 --port-file /tmp/tamiyo.address
      lets the kernel choose a port, and writes it down
  tamiyo_go --tokens /etc/leyline/tokens
      answers those only who show a trainer's or an operator's token, as in authorization: Bearer TOKEN, whose SHA-256 is in
      the file: kasmina trainer sha256:DIGEST
  tamiyo_go --listen 0.0.0.0:50052 --credentials /certs
      does so over TLS, with all the files of a folder that leyline certs made
  tamiyo_go --metrics-listen 127.0.0.1:9152
      tells Prometheus of calls and decisions, at http://127.0.0.1:9152/metrics
  LEYLINE_CREDENTIALS=/certs tamiyo_go health 127.0.0.1:50052
      says whether a server serves; the exit code says it too
  tamiyo_go --listen 0.0.0.0:50052 --insecure
      takes plain text from other machines, as inside a container
`

const healthTimeout = 5 * time.Second

// Exit codes, those of every service.
const (
	exitOK            = 0
	exitFailed        = 1
	exitConfiguration = 2
	exitAddressInUse  = 3
)

func main() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	os.Exit(run(os.Args[1:], os.Getenv, signals, os.Stdout, os.Stderr))
}

// run serves until a signal, and returns the exit code. What there is to say has then been said.
func run(arguments []string, variable func(string) string, signals <-chan os.Signal, stdout, stderr io.Writer) int {
	var err error
	if len(arguments) == 2 && arguments[0] == "health" {
		err = health(arguments[1], variable, stdout)
	} else {
		err = serve(arguments, variable, signals, stdout, stderr)
	}
	if err == nil {
		return exitOK
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(stderr, "%s: error: %s\n", program, strings.TrimSpace(line))
	}
	var wrong *chassis.SettingsError
	var unbound *chassis.BindError
	switch {
	case errors.As(err, &wrong):
		return exitConfiguration
	case errors.As(err, &unbound) && unbound.InUse():
		return exitAddressInUse
	default:
		return exitFailed
	}
}

// health asks a server whether it serves, for a container in which there is no other program.
func health(address string, variable func(string) string, stdout io.Writer) error {
	var credentials leyline.Credentials
	if folder := variable("LEYLINE_CREDENTIALS"); folder != "" {
		credentials = leyline.CredentialsIn(folder)
	}
	connection, err := leyline.Dial(address, credentials)
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), healthTimeout)
	defer cancel()
	answer, err := grpc_health_v1.NewHealthClient(connection).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		return err
	}
	fmt.Fprintln(stdout, answer.GetStatus())
	if answer.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		return errors.New(address + " does not serve")
	}
	return nil
}

func serve(arguments []string, variable func(string) string, signals <-chan os.Signal, stdout, stderr io.Writer) error {
	settings, spec := chassis.Settings{}, observation.Seed()
	if err := settings.Listen.Set("127.0.0.1:50052"); err != nil {
		return err
	}
	flags := flag.NewFlagSet(program, flag.ContinueOnError)
	settings.Register(flags)
	const specUsage = "`NAME` of the observation spec that queries must carry: seed or extended (default seed)"
	flags.Func("spec", specUsage, func(name string) (err error) {
		spec, err = observation.ByName(name)
		return err
	})
	if err := chassis.Load(&settings, flags, arguments, variable); errors.Is(err, flag.ErrHelp) {
		chassis.PrintHelp(stdout, flags, description, examples)
		return nil
	} else if err != nil {
		return err
	}
	log := chassis.NewLog(stderr, program, settings.LogLevel)
	server, err := chassis.NewServer(settings, log, leylinev1.PolicyService_ServiceDesc.ServiceName)
	if err != nil {
		return err
	}
	leylinev1.RegisterPolicyServiceServer(server.GRPC, &servicer{
		spec: spec, draining: server.Draining, metrics: newPolicyMetrics(server.Metrics),
	})
	return server.Serve(signals)
}
