"""Numbers about a service, for Prometheus: those of every call, and where all of them are read."""

from __future__ import annotations

import shutil
import socket
import socketserver
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeAlias

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    MetricsHandler,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from chassis import tls
from chassis.address import Address
from chassis.binding import bindable, refuse_unbindable
from chassis.logging import get_logger
from chassis.process import StartupError

# From a decision of a built-in policy to an episode's stream.
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 600)
# Seconds that a client may say nothing, and scrapes at a time. A scraper has all to say at once;
# whoever says nothing keeps a place from it.
_SILENCE_S = 2.0
_SCRAPES = 8
_STOP_POLL_S = 0.05

Labels: TypeAlias = tuple[str, str, str]
"""Of a call: kind, service, method."""

_log = get_logger(__name__)


def new_registry() -> CollectorRegistry:
    """Make a registry that has the process's own numbers: memory, processor time, open files."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


class Guarded(Collector):
    """A collector that asks something which may fail: the others are shown all the same."""

    def __init__(self, inner: Collector) -> None:
        """Guard ``inner``."""
        self._inner = inner

    def describe(self) -> list[Metric]:
        """Nothing: that would be to ask before the service runs."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Give all that ``inner`` has, or nothing."""
        try:
            found = list(self._inner.collect())
        except Exception as error:
            _log.warning("metrics missing", collector=type(self._inner).__name__, exc_info=error)
            return
        yield from found


class DiskMetrics(Collector):
    """Room on the disk of the folder in which a service keeps its state."""

    def __init__(self, folder: Path) -> None:
        """Look at ``folder`` at each scrape."""
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        """Give what is free for this process, and the size of all."""
        usage = shutil.disk_usage(self._folder)
        yield GaugeMetricFamily(
            "leyline_disk_free_bytes",
            "Bytes that are free on the disk of the state folder.",
            value=usage.free,
        )
        yield GaugeMetricFamily(
            "leyline_disk_size_bytes",
            "Bytes of the disk of the state folder.",
            value=usage.total,
        )


class CallMetrics:
    """Calls by method.

    The names and labels are those of go-grpc-middleware's Prometheus interceptors; codes are
    written as in gRPC's specification (NOT_FOUND).
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Count into ``registry``."""
        of_method = ("grpc_type", "grpc_service", "grpc_method")
        self._started = Counter(
            "grpc_server_started_total", "Calls that began.", of_method, registry=registry
        )
        self._handled = Counter(
            "grpc_server_handled_total",
            "Calls that ended, by status code.",
            (*of_method, "grpc_code"),
            registry=registry,
        )
        self._seconds = Histogram(
            "grpc_server_handling_seconds",
            "From the beginning of a call to its end, in seconds.",
            of_method,
            registry=registry,
            buckets=_SECONDS,
        )
        self._started_of = cache(self._started.labels)
        self._handled_of = cache(self._handled.labels)
        self._seconds_of = cache(self._seconds.labels)

    def began(self, method: str, *, streams_in: bool, streams_out: bool) -> Labels:
        """Count a call that begins; what ``ended`` wants to know of it.

        Args:
            method: as gRPC writes it, ``/package.Service/Method``.
            streams_in: whether it takes a stream of requests.
            streams_out: whether it answers with a stream.
        """
        _, service, name = method.split("/")
        labels = (_TYPES[streams_in, streams_out], service, name)
        self._started_of(*labels).inc()
        return labels

    def ended(self, labels: Labels, code: str, seconds: float) -> None:
        """Count a call that has ended with ``code`` after so many seconds."""
        self._handled_of(*labels, code).inc()
        self._seconds_of(*labels).observe(seconds)


_TYPES = {
    (False, False): "unary",
    (False, True): "server_stream",
    (True, False): "client_stream",
    (True, True): "bidi_stream",
}


class MetricsEndpoint:
    """Answers ``GET /metrics`` over HTTP, or HTTPS where the service has a certificate.

    In threads of its own: a scrape may ask a database, and takes nothing from the event loop.
    """

    def __init__(
        self,
        listen: Address,
        registry: CollectorRegistry,
        certificate: Path | None = None,
        key: Path | None = None,
        client_ca: Path | None = None,
    ) -> None:
        """Serve ``registry`` at ``listen``; nothing is bound yet.

        Args:
            listen: a host and port; 0 lets the kernel choose.
            registry: what is shown.
            certificate: PEM chain to show; with ``key``, HTTPS is spoken only.
            key: PEM private key of the certificate.
            client_ca: PEM certificates; given, clients must show one that these have signed.
        """
        self.address = listen
        self._registry = registry
        self._files = (certificate, key, client_ca) if certificate and key else None
        self._server: _HttpServer | None = None

    def start(self, remedy: str) -> None:
        """Bind and answer.

        Args:
            remedy: what can be done about an address that cannot be bound, for the message.

        Raises:
            AddressInUse: somebody else listens there.
            StartupError: the address cannot be bound for another reason.
            ConfigurationError: a certificate cannot be used.
        """
        context_of = None if self._files is None else tls.server_contexts(*self._files)
        refuse_unbindable(self.address, remedy)
        try:
            self._server = _HttpServer(bindable(self.address), self._registry, context_of)
        except (OSError, UnicodeError) as error:
            # Somebody was quicker in the moment since the question.
            raise StartupError(f"cannot listen on {self.address}: {error}; {remedy}") from None
        self.address = self.address.with_port(self._server.server_address[1])
        serve = partial(self._server.serve_forever, poll_interval=_STOP_POLL_S)
        threading.Thread(target=serve, name="metrics", daemon=True).start()
        _log.info("metrics", address=str(self.address), tls=context_of is not None)

    def stop(self) -> None:
        """Stop listening; waits for a fraction of a second."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


class _Handler(MetricsHandler):
    timeout = _SILENCE_S
    server_version, sys_version = "leyline", ""

    def do_GET(self) -> None:
        if self.path.partition("?")[0] == "/metrics":
            super().do_GET()
        else:
            self.send_error(HTTPStatus.NOT_FOUND, "metrics are at /metrics")


class _HttpServer(socketserver.ThreadingTCPServer):
    """Not http.server's, which asks the name service for the machine's name as it binds."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = _SCRAPES

    def __init__(
        self,
        address: Address,
        registry: CollectorRegistry,
        context_of: Callable[[], ssl.SSLContext] | None,
    ) -> None:
        found: Any = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        self.address_family, *_, name = found[0]
        self._context_of = context_of
        self._places = threading.Semaphore(_SCRAPES)
        super().__init__(name, _Handler.factory(registry))

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is a place for one more; whoever finds none is hung up on."""
        return self._places.acquire(blocking=False)

    def process_request(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request(request, client_address)
        except BaseException:
            # There is no thread that would do it.
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self._context_of is None:
            super().finish_request(request, client_address)
            return
        # In the connection's own thread: one that says nothing keeps nobody else waiting.
        request.settimeout(_SILENCE_S)
        with self._context_of().wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)
            # Says that this was all; who is gone need not hear it.
            with suppress(OSError):
                secured.unwrap()

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if isinstance(error, OSError):
            # A client that goes away, or speaks another protocol.
            _log.debug("a scrape failed", client=str(client_address), problem=str(error))
        else:
            _log.warning("a scrape failed", client=str(client_address), exc_info=error)
