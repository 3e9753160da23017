package chassis

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	// scrapes are answered at a time. Whoever says nothing keeps a place from a scraper, who has all to say at once.
	scrapes = 8
	silence = 2 * time.Second
	// slowestScrape is how long a client may take to read the page: what Prometheus itself gives a scrape by default.
	slowestScrape = 10 * time.Second
	// longestHead is of a request, in bytes: its line and headers.
	longestHead = 16 << 10
)

// metricsEndpoint answers GET /metrics over HTTP, or HTTPS where the server has a certificate.
type metricsEndpoint struct {
	http  *http.Server
	shown *certificates
	log   *slog.Logger
}

// newMetricsEndpoint shows what a registry has; nothing is bound yet. Without certificates it speaks plain text.
func newMetricsEndpoint(registry prometheus.Gatherer, shown *certificates, log *slog.Logger) *metricsEndpoint {
	page := promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		// What cannot be found out is missing, and nothing else.
		ErrorHandling: promhttp.ContinueOnError,
		// The format that Prometheus asks for first, in which the numbers look as Python's do: le="1.0", and _created.
		EnableOpenMetrics:                   true,
		EnableOpenMetricsTextCreatedSamples: true,
	})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", page)
	mux.HandleFunc("/", func(response http.ResponseWriter, _ *http.Request) {
		http.Error(response, "metrics are at /metrics", http.StatusNotFound)
	})
	server := &http.Server{
		Handler: mux,
		// Of a request, and of a handshake before it.
		ReadTimeout:    silence,
		WriteTimeout:   slowestScrape,
		MaxHeaderBytes: longestHead,
		// Of clients that go away, or speak another protocol.
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	// A connection that waits for the next scrape would keep a place from another.
	server.SetKeepAlivesEnabled(false)
	return &metricsEndpoint{server, shown, log}
}

// start binds and answers. The error is a [*BindError].
func (e *metricsEndpoint) start(listen Address) error {
	listener, address, err := listen.bind()
	if err != nil {
		return &BindError{listen, "metrics-listen", err}
	}
	listener = newFewAtOnce(listener, scrapes)
	if e.shown != nil {
		// Within the places: a handshake is made by the connection's own goroutine, once it has one.
		listener = tls.NewListener(listener, e.shown.config())
	}
	e.log.Info("metrics", "address", address.String(), "tls", e.shown != nil)
	go func() {
		if err := e.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			e.log.Error("metrics are not shown any longer", "problem", err.Error())
		}
	}()
	return nil
}

// stop stops listening, and ends scrapes that are being answered.
func (e *metricsEndpoint) stop() { e.http.Close() }

// fewAtOnce is a listener with so many connections at a time; whoever finds no place is hung up on. To let them wait would be
// to let whoever takes all places keep a scraper waiting until it gives up.
type fewAtOnce struct {
	net.Listener
	places chan struct{}
}

func newFewAtOnce(listener net.Listener, places int) fewAtOnce {
	return fewAtOnce{listener, make(chan struct{}, places)}
}

func (l fewAtOnce) Accept() (net.Conn, error) {
	for {
		connection, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.places <- struct{}{}:
			return &placed{Conn: connection, leave: sync.OnceFunc(func() { <-l.places })}, nil
		default:
			connection.Close()
		}
	}
}

// placed is a connection that has a place until it is closed.
type placed struct {
	net.Conn
	leave func()
}

func (c *placed) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
