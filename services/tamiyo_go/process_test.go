package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	leyline "leyline/clients/go"
	"leyline/clients/go/leylinev1"
)

func TestMain(m *testing.M) {
	// The token of this machine's user is not for tests.
	os.Setenv("XDG_STATE_HOME", os.DevNull)
	m.Run()
}

// process is a server that runs as main would run it, in this process.
type process struct {
	address string
	signals chan os.Signal
	ended   chan int
	log     *bytes.Buffer
}

// start runs a server on a port of the kernel's choice, unless the arguments say otherwise, until the test ends.
func start(t *testing.T, arguments ...string) *process {
	t.Helper()
	portFile := filepath.Join(t.TempDir(), "address")
	arguments = append([]string{"--listen", "127.0.0.1:0", "--port-file", portFile}, arguments...)
	p := &process{signals: make(chan os.Signal, 2), ended: make(chan int, 1), log: &bytes.Buffer{}}
	go func() { p.ended <- run(arguments, noVariable, p.signals, io.Discard, p.log) }()
	for {
		select {
		case code := <-p.ended:
			t.Fatalf("it ended with %d: %s", code, p.log)
		case <-time.After(time.Millisecond):
		}
		if content, err := os.ReadFile(portFile); err == nil {
			p.address = strings.TrimSpace(string(content))
			break
		}
	}
	t.Cleanup(func() {
		select {
		case p.signals <- syscall.SIGTERM:
		default:
		}
	})
	return p
}

// end sends SIGTERM and returns the exit code.
func (p *process) end() int {
	p.signals <- syscall.SIGTERM
	return <-p.ended
}

func noVariable(string) string { return "" }

func TestSIGTERMSaysNotServingEndsTheStreamsAndExitsWithZero(t *testing.T) {
	p := start(t)
	connection := p.dial(t, leyline.Credentials{})
	watch, err := grpc_health_v1.NewHealthClient(connection).Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if first, err := watch.Recv(); err != nil || first.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("health says %v, %v", first, err)
	}
	stream, err := leylinev1.NewPolicyServiceClient(connection).StreamDecisions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stream.Send(&leylinev1.StreamDecisionsRequest{Query: query(1)})
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	if code := p.end(); code != 0 {
		t.Errorf("exit code %d: %s", code, p.log)
	}
	if last, err := watch.Recv(); err != nil || last.GetStatus() != grpc_health_v1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("health says %v, %v", last, err)
	}
	if _, err := watch.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the watch of health ended with %v", err)
	}
	_, err = stream.Recv()
	if refused := refusal(t, err); refused.Reason != "SHUTTING_DOWN" || refused.RetryAfter != time.Second {
		t.Errorf("the stream ended with %+v", refused)
	}
	if strings.Contains(p.log.String(), `"level":"error"`) {
		t.Errorf("the log has errors: %s", p.log)
	}
}

func TestEachLineOfTheLogIsAnObjectThatNamesTheCall(t *testing.T) {
	p := start(t, "--log-level", "debug")
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-request-id", "named-1")
	if _, err := p.policy(t).Decide(ctx, &leylinev1.DecideRequest{Query: query(1)}); err != nil {
		t.Fatal(err)
	}
	p.end()
	var call map[string]any
	for line := range strings.Lines(p.log.String()) {
		var entry map[string]any
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if entry["event"] == "call" {
			call = entry
		}
	}
	for name, want := range map[string]any{
		"request_id": "named-1", "method": "/leyline.v1.PolicyService/Decide", "code": "OK", "run_id": "run",
		"policy_version": "heuristic-1", "level": "debug", "service": program,
	} {
		if call[name] != want {
			t.Errorf("%s is %v, want %v", name, call[name], want)
		}
	}
}

func TestAUnixSocketIsTakenOverFromADeadServerAndNotFromALivingOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	p := start(t, "--listen", "unix:"+path)
	if _, err := p.policy(t).GetPolicyInfo(t.Context(), &leylinev1.GetPolicyInfoRequest{}); err != nil {
		t.Error(err)
	}
	if code, said := failing(t, nil, "--listen", "unix:"+path); code != 3 || !strings.Contains(said, "in use") {
		t.Errorf("a second server ended with %d: %s", code, said)
	}
	if code := p.end(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// failing runs a server that cannot start, and returns its exit code and what it said.
func failing(t *testing.T, variables map[string]string, arguments ...string) (int, string) {
	t.Helper()
	var said bytes.Buffer
	variable := func(name string) string { return variables[name] }
	code := run(arguments, variable, make(chan os.Signal), io.Discard, &said)
	return code, said.String()
}

func TestAServerThatCannotStartSaysWhyInALineAndByItsExitCode(t *testing.T) {
	folder := t.TempDir()
	file := filepath.Join(folder, "file")
	if err := os.WriteFile(file, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	busy := start(t).address
	for name, c := range map[string]struct {
		variables map[string]string
		arguments []string
		code      int
		says      []string
	}{
		"a port in use": {nil, []string{"--listen", busy}, 3,
			[]string{busy + " is in use by another process", "LEYLINE_TAMIYO_LISTEN"}},
		"plain text beyond this machine": {nil, []string{"--listen", "0.0.0.0:50052"}, 2,
			[]string{"LEYLINE_TAMIYO_LISTEN=0.0.0.0:50052 would take plain text from other machines", "--insecure"}},
		"calls of whoever comes from other machines": {nil, []string{"--listen", "0.0.0.0:0", "--tls-certificate", file, "--tls-key", file}, 2,
			[]string{"LEYLINE_TAMIYO_LISTEN=0.0.0.0:0 would take calls of whoever reaches it", "LEYLINE_TAMIYO_TOKENS", "--insecure"}},
		"a port in use for metrics": {nil, []string{"--listen", "127.0.0.1:0", "--metrics-listen", busy}, 3,
			[]string{busy + " is in use by another process; stop it, or set LEYLINE_TAMIYO_METRICS_LISTEN (--metrics-listen) to"}},
		"metrics in plain text beyond this machine": {map[string]string{"LEYLINE_TAMIYO_METRICS_LISTEN": "0.0.0.0:9152"}, nil, 2,
			[]string{"LEYLINE_TAMIYO_METRICS_LISTEN=0.0.0.0:9152 would take plain text from other machines", "--insecure"}},
		"metrics where gRPC listens": {nil, []string{"--metrics-listen", "127.0.0.1:50052"}, 2,
			[]string{"LEYLINE_TAMIYO_METRICS_LISTEN=127.0.0.1:50052 is where gRPC listens"}},
		"metrics at an address of another machine": {
			nil, []string{"--listen", "127.0.0.1:0", "--metrics-listen", "192.0.2.1:0", "--insecure"}, 1,
			[]string{"cannot listen on 192.0.2.1:0", "LEYLINE_TAMIYO_METRICS_LISTEN"}},
		"metrics over a Unix socket":                  {nil, []string{"--metrics-listen", "unix:" + file}, 2, []string{"must be HOST:PORT"}},
		"a rate that is none":                         {nil, []string{"--calls-per-s-per-caller", "-1"}, 2, []string{"from 0 to 1000000"}},
		"a host name is not known to be this machine": {nil, []string{"--listen", "here:0"}, 2, []string{"--insecure"}},
		"an address of another machine":               {nil, []string{"--listen", "192.0.2.1:0", "--insecure"}, 1, []string{"cannot listen on 192.0.2.1:0"}},
		"no port":                                     {nil, []string{"--listen", "127.0.0.1"}, 2, []string{"listen", "HOST:PORT"}},
		"a relative socket":                           {nil, []string{"--listen", "unix:socket"}, 2, []string{"absolute path"}},
		"a file in the place of the socket":           {nil, []string{"--listen", "unix:" + file}, 1, []string{"no socket"}},
		"a spec that does not exist":                  {nil, []string{"--spec", "sead"}, 2, []string{"seed, extended"}},
		"an unknown flag":                             {nil, []string{"--polcy", "x"}, 2, []string{"polcy"}},
		"an argument too many":                        {nil, []string{"heuristic"}, 2, []string{"heuristic"}},
		"a certificate without its key":               {nil, []string{"--tls-certificate", file}, 2, []string{"LEYLINE_TAMIYO_TLS_KEY is missing"}},
		"a certificate that is none":                  {nil, []string{"--tls-certificate", file, "--tls-key", file}, 2, []string{file}},
		"authorities without a certificate":           {nil, []string{"--tls-client-ca", file}, 2, []string{"LEYLINE_TAMIYO_TLS_CLIENT_CA"}},
		"tokens that are not there":                   {nil, []string{"--tokens", file + "s"}, 2, []string{"the tokens in " + file + "s cannot be read"}},
		"a line of tokens that is none": {map[string]string{"LEYLINE_TAMIYO_TOKENS": file}, nil, 2,
			[]string{file + ", line 1: must be a name, scopes out of trainer, policy, operator, and sha256:"}},
		"two variables, a line for each": {
			map[string]string{"LEYLINE_TAMIYO_DRAIN_GRACE_S": "-1", "LEYLINE_TAMIYO_MAX_CONCURRENT_RPCS": "many"}, nil, 2,
			[]string{"LEYLINE_TAMIYO_DRAIN_GRACE_S=-1", "LEYLINE_TAMIYO_MAX_CONCURRENT_RPCS=many"}},
	} {
		t.Run(name, func(t *testing.T) {
			code, said := failing(t, c.variables, c.arguments...)
			if code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			for _, want := range c.says {
				if !strings.Contains(said, want) {
					t.Errorf("it does not say %q: %s", want, said)
				}
			}
			for line := range strings.Lines(said) {
				if !strings.HasPrefix(line, program+": error: ") && !strings.HasPrefix(line, "{") {
					t.Errorf("odd line: %s", line)
				}
			}
		})
	}
}

func TestAFlagWinsOverAVariableAndAnEmptyVariableIsNone(t *testing.T) {
	variables := map[string]string{"LEYLINE_TAMIYO_SPEC": "nonsense", "LEYLINE_TAMIYO_LOG_LEVEL": "", "LEYLINE_TAMIYO_LISTEN": "0.0.0.0:0"}
	code, said := failing(t, variables, "--spec", "seed")
	if code != 2 || !strings.Contains(said, "0.0.0.0:0") || strings.Contains(said, "nonsense") || strings.Contains(said, "LOG_LEVEL") {
		t.Errorf("exit code %d: %s", code, said)
	}
}

func TestHelpShowsExamples(t *testing.T) {
	var said bytes.Buffer
	if code := run([]string{"--help"}, noVariable, nil, &said, io.Discard); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if !strings.Contains(said.String(), "tamiyo_go --spec extended") || !strings.Contains(said.String(), "--drain-grace-s SECONDS") {
		t.Errorf("it says %s", &said)
	}
}
