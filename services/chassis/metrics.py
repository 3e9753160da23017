"""Numbers about a service, for Prometheus: those of every call, and where all of them are read."""

from __future__ import annotations

import asyncio
import errno
import socket
import socketserver
import threading
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

from chassis import tls
from chassis.address import Address
from chassis.logging import get_logger
from chassis.process import AddressInUse, StartupError

# From a decision of a built-in policy to an episode's stream.
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 600)
_SCRAPE_TIMEOUT_S = 10.0

Labels: TypeAlias = tuple[str, str, str]
"""Of a call: kind, service, method."""

_log = get_logger(__name__)


def new_registry() -> CollectorRegistry:
    """Make a registry that has the process's own numbers: memory, processor time, open files."""
    registry = CollectorRegistry(auto_describe=True)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


class CallMetrics:
    """Calls and messages by method.

    The names and labels are those of go-grpc-middleware's Prometheus interceptors, which
    dashboards in circulation ask for; codes are written as in gRPC's specification (NOT_FOUND).
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

    def began(self, method: str, *, streams_in: bool, streams_out: bool) -> Labels:
        """Count a call that begins; what ``ended`` wants to know of it.

        Args:
            method: as gRPC writes it, ``/package.Service/Method``.
            streams_in: whether it takes a stream of requests.
            streams_out: whether it answers with a stream.
        """
        _, service, name = method.split("/")
        labels = (_TYPES[streams_in, streams_out], service, name)
        self._started.labels(*labels).inc()
        return labels

    def ended(self, labels: Labels, code: str, seconds: float) -> None:
        """Count a call that has ended with ``code`` after so many seconds."""
        self._handled.labels(*labels, code).inc()
        self._seconds.labels(*labels).observe(seconds)


_TYPES = {
    (False, False): "unary",
    (False, True): "server_stream",
    (True, False): "client_stream",
    (True, True): "bidi_stream",
}


class MetricsEndpoint:
    """Answers ``GET /metrics`` over HTTP, or HTTPS where the service has a certificate.

    In threads of its own: a scrape may ask a database, and takes nothing from the event loop.
    Certificates are read for each connection, so that new ones count at once.
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

    async def start(self) -> None:
        """Bind and answer.

        Raises:
            AddressInUse: somebody else listens there.
            StartupError: the address cannot be bound for another reason.
            ConfigurationError: a certificate cannot be used.
        """
        self._server = await asyncio.to_thread(self._bound)
        self.address = self.address.with_port(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()
        _log.info("metrics", address=str(self.address), tls=self._files is not None)

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            await asyncio.to_thread(self._server.shutdown)
            self._server.server_close()

    def _bound(self) -> _HttpServer:
        if self._files is not None:
            tls.server_context(*self._files)
        remedy = "give --metrics-listen another address"
        try:
            family, *_, name = socket.getaddrinfo(
                self.address.host, self.address.port, type=socket.SOCK_STREAM
            )[0]
            return _HttpServer(family, name, self._registry, self._files)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise AddressInUse(
                    f"{self.address} is in use by another process; stop it, or {remedy}"
                ) from None
            raise StartupError(
                f"cannot show metrics on {self.address}: {error.strerror}; {remedy}"
            ) from None


class _Handler(MetricsHandler):
    timeout = _SCRAPE_TIMEOUT_S


class _HttpServer(socketserver.ThreadingTCPServer):
    """Not http.server's, which asks the name service for the machine's name as it binds."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 16

    def __init__(
        self,
        family: int,
        name: Any,
        registry: CollectorRegistry,
        files: tuple[Path, Path, Path | None] | None,
    ) -> None:
        self.address_family = family
        self._files = files
        super().__init__(name, _Handler.factory(registry))

    def finish_request(self, request: Any, client_address: Any) -> None:
        # In the connection's own thread: one that says nothing keeps nobody else waiting.
        request.settimeout(_SCRAPE_TIMEOUT_S)
        if self._files is not None:
            context = tls.server_context(*self._files)
            request = context.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.debug("a scrape failed", client=str(client_address), exc_info=True)
