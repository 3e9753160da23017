package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	leyline "leyline/clients/go"
	"leyline/clients/go/leylinev1"
	"leyline/clients/go/observation"
)

// freeAddress is one that nobody listens on now.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// scraper is a client of Prometheus's kind, over HTTPS where it is given a configuration.
type scraper struct {
	address string
	secure  *tls.Config
}

// get returns a page and its status. Each has a connection of its own.
func (s scraper) get(path string) (status int, page string, err error) {
	scheme := "http"
	if s.secure != nil {
		scheme = "https"
	}
	client := http.Client{Transport: &http.Transport{TLSClientConfig: s.secure, DisableKeepAlives: true}}
	response, err := client.Get(scheme + "://" + s.address + path)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}

// scraped is what is shown now.
func (s scraper) scraped(t *testing.T) exposition {
	t.Helper()
	status, page, err := s.get("/metrics")
	if err != nil || status != http.StatusOK {
		t.Fatalf("got %d, %v", status, err)
	}
	return exposition(page)
}

// exposition is a page in the text format.
type exposition string

// value is that of a series, as it is written; empty where there is none.
func (e exposition) value(series string) string {
	for line := range strings.Lines(string(e)) {
		if value, isOfIt := strings.CutPrefix(line, series+" "); isOfIt {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// shows holds a page to values by series.
func (e exposition) shows(t *testing.T, wanted map[string]string) {
	t.Helper()
	for series, want := range wanted {
		if value := e.value(series); value != want {
			t.Errorf("%s is %q, want %q", series, value, want)
		}
	}
}

// ofMethod is a series of a method of the policy service.
func ofMethod(name, kind, method string, code ...codes.Code) string {
	of := fmt.Sprintf(`grpc_method="%s",grpc_service="leyline.v1.PolicyService",grpc_type="%s"}`, method, kind)
	if len(code) == 0 {
		return name + "{" + of
	}
	spelled := map[codes.Code]string{codes.OK: "OK", codes.NotFound: "NOT_FOUND", codes.Unauthenticated: "UNAUTHENTICATED"}
	return fmt.Sprintf(`%s{grpc_code="%s",%s`, name, spelled[code[0]], of)
}

// finish ends a stream from the client's side, and waits for its end.
func finish(t *testing.T, stream grpc.BidiStreamingClient[leylinev1.StreamDecisionsRequest, leylinev1.StreamDecisionsResponse]) {
	t.Helper()
	stream.CloseSend()
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v", err)
	}
}

func TestCallsAreCountedByMethodAndCodeAlsoThoseThatAreRefused(t *testing.T) {
	address := freeAddress(t)
	p := start(t, "--metrics-listen", address, "--tokens", tokens(t))
	stranger := p.dial(t, leyline.Credentials{})
	trainer := p.dial(t, leyline.Credentials{Token: holding(t, "trainer")})
	if err := errors.Join(ask(t, trainer), ask(t, trainer)); err != nil {
		t.Error(err)
	}
	if err := ask(t, stranger); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a stranger: %v", err)
	}
	policy, another := leylinev1.NewPolicyServiceClient(trainer), query(1)
	another.PolicyVersion = new("mlp-000000000000")
	if _, err := policy.Decide(t.Context(), &leylinev1.DecideRequest{Query: another}); status.Code(err) != codes.NotFound {
		t.Errorf("another version: %v", err)
	}
	stream, err := policy.StreamDecisions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	decides(t, stream)
	decides(t, stream)
	finish(t, stream)
	health := grpc_health_v1.NewHealthClient(stranger)
	if _, err := health.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Error(err)
	}
	const started, handled, seconds = "grpc_server_started_total", "grpc_server_handled_total", "grpc_server_handling_seconds"
	page := scraper{address: address}.scraped(t)
	page.shows(t, map[string]string{
		ofMethod(started, "unary", "GetPolicyInfo"):                                                             "3",
		ofMethod(handled, "unary", "GetPolicyInfo", codes.OK):                                                   "2",
		ofMethod(handled, "unary", "GetPolicyInfo", codes.Unauthenticated):                                      "1",
		ofMethod(seconds+"_count", "unary", "GetPolicyInfo"):                                                    "3",
		ofMethod(handled, "unary", "Decide", codes.NotFound):                                                    "1",
		ofMethod(handled, "unary", "Decide", codes.OK):                                                          "",
		ofMethod(started, "bidi_stream", "StreamDecisions"):                                                     "1",
		ofMethod(handled, "bidi_stream", "StreamDecisions", codes.OK):                                           "1",
		ofMethod(seconds+"_count", "bidi_stream", "StreamDecisions"):                                            "1",
		handled + `{grpc_code="OK",grpc_method="Check",grpc_service="grpc.health.v1.Health",grpc_type="unary"}`: "1",
	})
	for _, name := range []string{
		"process_open_fds", "process_max_fds", "process_resident_memory_bytes", "process_cpu_seconds_total",
		"process_start_time_seconds", "go_goroutines",
	} {
		if page.value(name) == "" {
			t.Errorf("there is no %s", name)
		}
	}
}

func TestAStreamThatLastsHasBegunAndNotEnded(t *testing.T) {
	address := freeAddress(t)
	stream, err := start(t, "--metrics-listen", address).policy(t).StreamDecisions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	decides(t, stream)
	scraper{address: address}.scraped(t).shows(t, map[string]string{
		ofMethod("grpc_server_started_total", "bidi_stream", "StreamDecisions"):           "1",
		ofMethod("grpc_server_handled_total", "bidi_stream", "StreamDecisions", codes.OK): "",
	})
}

func TestDecisionsAreCountedByTypeWithTheirTimeAndErrorsByReason(t *testing.T) {
	address := freeAddress(t)
	policy := start(t, "--metrics-listen", address).policy(t)
	shown := scraper{address: address}
	shown.scraped(t).shows(t, map[string]string{
		`leyline_decisions_total{action_type="WAIT"}`:      "0",
		`leyline_decisions_total{action_type="GERMINATE"}`: "0",
		`leyline_decisions_total{action_type="ADVANCE"}`:   "0",
		`leyline_decisions_total{action_type="CULL"}`:      "0",
		"leyline_decision_seconds_count":                   "0",
		"leyline_decision_batch_size_count":                "0",
	})
	foreign, broken := query(1), query(1)
	foreign.SpecFingerprint = observation.Extended().GetFingerprint()
	broken.Mode = 0
	stream, err := policy.StreamDecisions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, asked := range []*leylinev1.DecisionQuery{query(1), foreign, broken} {
		// One that Decide refuses on arrival is a call that failed, and no query.
		policy.Decide(t.Context(), &leylinev1.DecideRequest{Query: asked})
		stream.Send(&leylinev1.StreamDecisionsRequest{Query: asked})
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	decides(t, stream)
	shown.scraped(t).shows(t, map[string]string{
		`leyline_decisions_total{action_type="GERMINATE"}`:             "3",
		`leyline_decisions_total{action_type="WAIT"}`:                  "0",
		`leyline_decision_errors_total{reason="FINGERPRINT_MISMATCH"}`: "2",
		`leyline_decision_errors_total{reason="INVALID_ARGUMENT"}`:     "1",
		"leyline_decision_seconds_count":                               "3",
		"leyline_decision_batch_size_count":                            "3",
		"leyline_decision_batch_size_sum":                              "3",
		`leyline_decision_batch_size_bucket{le="1"}`:                   "3",
	})
}

func TestThereIsOnePage(t *testing.T) {
	address := freeAddress(t)
	start(t, "--metrics-listen", address)
	for path, want := range map[string]int{"/": 404, "/metrics": 200, "/metrics?a=b": 200, "/metrics/": 404} {
		if status, page, err := (scraper{address: address}).get(path); err != nil || status != want {
			t.Errorf("%s: got %d, %v: %s", path, status, err, page)
		}
	}
}

func TestNothingIsShownUnlessItIsAskedFor(t *testing.T) {
	p := start(t)
	p.end()
	if log := p.log.String(); strings.Contains(log, `"event":"metrics"`) || !strings.Contains(log, `"event":"serving"`) {
		t.Errorf("the log says %s", log)
	}
}

// trusting is the configuration of a client that trusts a certificate, and shows one where there is one.
func trusting(t *testing.T, ca string, own ...string) *tls.Config {
	t.Helper()
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	config.RootCAs.AppendCertsFromPEM([]byte(contentOf(t, ca)))
	if len(own) > 0 {
		pair, err := tls.LoadX509KeyPair(own[0], own[1])
		if err != nil {
			t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config
}

func TestWhereClientsNeedACertificateAScraperDoesToo(t *testing.T) {
	address, folder := freeAddress(t), t.TempDir()
	certificate, key := certify(t, folder, "server")
	own, ownKey := certify(t, folder, "client")
	start(t, "--metrics-listen", address, "--tls-certificate", certificate, "--tls-key", key, "--tls-client-ca", own)
	for name, c := range map[string]struct {
		secure  *tls.Config
		welcome bool
	}{
		"with a certificate":    {trusting(t, certificate, own, ownKey), true},
		"without one":           {trusting(t, certificate), false},
		"in plain text":         {nil, false},
		"that trusts others":    {trusting(t, own, own, ownKey), false},
		"with an unknown one's": {trusting(t, certificate, certificate, key), false},
	} {
		t.Run(name, func(t *testing.T) {
			status, page, err := scraper{address, c.secure}.get("/metrics")
			if isShown := err == nil && status == http.StatusOK; isShown != c.welcome {
				t.Errorf("got %d, %v: %s", status, err, page)
			}
		})
	}
}

func TestAScraperIsShownANewCertificateAndWhenItEnds(t *testing.T) {
	address, folder := freeAddress(t), t.TempDir()
	certificate, key := certify(t, folder, "server")
	own, ownKey := certify(t, folder, "client")
	start(t, "--metrics-listen", address, "--tls-certificate", certificate, "--tls-key", key, "--tls-client-ca", own)
	for range 2 {
		page := scraper{address, trusting(t, certificate, own, ownKey)}.scraped(t)
		for file, pair := range map[string][2]string{"tls_certificate": {certificate, key}, "tls_client_ca": {own, ownKey}} {
			read, err := tls.LoadX509KeyPair(pair[0], pair[1])
			if err != nil {
				t.Fatal(err)
			}
			shown := page.value(fmt.Sprintf("leyline_certificate_end_timestamp_seconds{file=%q}", file))
			if end, err := strconv.ParseFloat(shown, 64); err != nil || end != float64(read.Leaf.NotAfter.Unix()) {
				t.Errorf("%s ends at %q, want %d", file, shown, read.Leaf.NotAfter.Unix())
			}
		}
		certify(t, folder, "server")
	}
}

func TestWithoutTLSNoCertificateEnds(t *testing.T) {
	address := freeAddress(t)
	start(t, "--metrics-listen", address)
	if page := (scraper{address: address}).scraped(t); strings.Contains(string(page), "leyline_certificate_end") {
		t.Errorf("it shows %s", page)
	}
}

func TestWhoeverSaysNothingHasAPlaceForAWhileAndFurtherScrapersAreHungUpOn(t *testing.T) {
	certificate, key := certify(t, t.TempDir(), "server")
	for name, c := range map[string]struct {
		arguments []string
		secure    *tls.Config
	}{
		"HTTP":  {},
		"HTTPS": {[]string{"--tls-certificate", certificate, "--tls-key", key}, trusting(t, certificate)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address := freeAddress(t)
			start(t, append(slices.Clone(c.arguments), "--metrics-listen", address)...)
			isAnswered := func() bool {
				status, _, err := scraper{address, c.secure}.get("/metrics")
				return err == nil && status == http.StatusOK
			}
			// Places are taken in the order of connecting; on a slow machine the first may be free again before the last.
			for isAnswered() {
				for range 8 {
					silent, err := net.Dial("tcp", address)
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { silent.Close() })
				}
			}
			for !isAnswered() {
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
}
