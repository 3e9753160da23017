"""A gRPC server's life: bound, ready, serving, draining, gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import grpc
from grpc_health.v1 import health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]
from prometheus_client.registry import Collector

from chassis import health, tls
from chassis.access import Tokens
from chassis.address import Address
from chassis.binding import bindable, refuse_unbindable
from chassis.callers import STRANGERS_WATCHES, CallerLimits
from chassis.drain import Drain
from chassis.expiry import CertificateEnds
from chassis.interceptor import CallInterceptor
from chassis.logging import get_logger
from chassis.metrics import CallMetrics, Guarded, MetricsEndpoint, new_registry
from chassis.process import StartupError
from chassis.settings import ServerSettings

if TYPE_CHECKING:
    from chassis.spans import Tracing

_log = get_logger(__name__)


class Server:
    """A ``grpc.aio`` server with health, reflection, and everything around a call.

    Add servicers to ``grpc`` first, then enter the server as an async context: inside it is bound
    and says NOT_SERVING until ``serve`` or ``set_serving``; leaving it drains.

    Attributes:
        grpc: for the generated ``add_…Servicer_to_server`` functions.
        drain: begins when the server stops; for streams that wait by themselves.
        metrics: what ``GET /metrics`` shows, where the settings want it; for more numbers.
        tracing: is told of unary calls, and of whatever else there is to tell; None: nothing is.
        address: where it listens; once started, with the port that was really bound.
    """

    def __init__(
        self, settings: ServerSettings, services: Sequence[str], tracing: Tracing | None = None
    ) -> None:
        """Make the server; nothing is bound yet.

        Args:
            settings: where and how to serve.
            services: full names of the services, for health and reflection.
            tracing: is told of unary calls; the server closes it at its end.

        Raises:
            ConfigurationError: a certificate, or the list of tokens, cannot be used.
        """
        self._settings = settings
        self._health = health.Health(services)
        self._stop_asked = asyncio.Event()
        self.drain = Drain()
        self.metrics = new_registry()
        self.tracing = tracing
        if settings.speaks_tls or settings.peer_ca is not None:
            files = (settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
            self.metrics.register(CertificateEnds(tls.ends(*files, settings.peer_ca)))
        self.address = settings.listen
        self._endpoint = (
            None
            if settings.metrics_listen is None
            else MetricsEndpoint(
                settings.metrics_listen,
                self.metrics,
                settings.tls_certificate,
                settings.tls_key,
                settings.tls_client_ca,
            )
        )
        self.grpc = grpc.aio.server(
            interceptors=[
                CallInterceptor(
                    self.drain,
                    CallMetrics(self.metrics),
                    None
                    if settings.tokens is None
                    else Tokens(settings.tokens, certified=settings.tls_client_ca is not None),
                    CallerLimits(
                        settings.calls_per_s_per_caller,
                        settings.max_concurrent_rpcs_per_caller or settings.max_concurrent_rpcs,
                        settings.max_concurrent_rpcs,
                    ),
                    settings.default_deadline_s,
                    tracing,
                )
            ],
            options=settings.transport.server_options(
                settings.max_connection_age_s,
                settings.max_connection_age_grace_s,
                # More than may be open: who asks for too much is told so, and does not just wait.
                settings.max_concurrent_rpcs + STRANGERS_WATCHES,
            ),
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        reflection.enable_server_reflection(
            (*services, health.SERVICE_NAME, reflection.SERVICE_NAME), self.grpc
        )

    @property
    def port(self) -> int:
        """The TCP port; 0 for a Unix socket."""
        return self.address.port

    @property
    def metrics_address(self) -> Address | None:
        """Where ``GET /metrics`` is answered; None: nowhere."""
        return None if self._endpoint is None else self._endpoint.address

    def show(self, collector: Collector) -> None:
        """Show what ``collector`` finds out at each scrape, in a thread of the scrape's; while it
        fails, it is missing.
        """
        self.metrics.register(Guarded(collector))

    @property
    def is_serving(self) -> bool:
        """Whether health says SERVING."""
        return self._health.serving

    @property
    def not_serving_reason(self) -> str:
        """Why health says NOT_SERVING; empty while it says SERVING."""
        return self._health.reason

    def set_serving(self) -> None:
        """Let health say SERVING; from the event loop's thread."""
        if not self._health.serving:
            self._health.open()
            _log.info("serving", address=str(self.address))

    def set_not_serving(self, reason: str) -> None:
        """Let health say NOT_SERVING while calls are still answered; from the loop's thread."""
        if self._health.serving or self._health.reason != reason:
            self._health.close(reason)
            _log.warning("not serving", reason=reason)

    async def start(self) -> None:
        """Bind and take calls, with health at NOT_SERVING.

        Raises:
            AddressInUse: somebody else listens there.
            StartupError: the address cannot be bound for another reason.
            ConfigurationError: a certificate cannot be used.
        """
        self.address = self._bound()
        if self._endpoint is not None:
            self._endpoint.start(self._remedy("metrics_listen"))
        try:
            await self.grpc.start()
            _log.info(
                "listening",
                address=str(self.address),
                tls=self._settings.speaks_tls,
                asks_for_tokens=self._settings.tokens is not None,
                asks_for_certificates=self._settings.tls_client_ca is not None,
            )
            if self._settings.port_file is not None:
                _write_whole(self._settings.port_file, f"{self.address}\n")
        except BaseException:
            if self._endpoint is not None:
                self._endpoint.stop()
            raise

    async def serve(self) -> None:
        """Say SERVING, and wait until ``ask_to_stop`` or a cancellation."""
        self.set_serving()
        await self._stop_asked.wait()

    def ask_to_stop(self) -> None:
        """Let ``serve`` return."""
        self._stop_asked.set()

    async def stop(self) -> None:
        """Drain: NOT_SERVING first, then the waiting streams end, then open calls get the grace.

        A cancellation while it waits ends the grace: the second signal of somebody in a hurry.
        """
        started = time.monotonic()
        self._health.end("shutting down")
        self.drain.begin()
        _log.info("draining", grace_s=self._settings.drain_grace_s)
        stopping = asyncio.ensure_future(self.grpc.stop(self._settings.drain_grace_s))
        try:
            await asyncio.shield(stopping)
        except asyncio.CancelledError:
            await self.grpc.stop(None)
            raise
        finally:
            if self._endpoint is not None:
                self._endpoint.stop()
            if self.tracing is not None:
                await asyncio.to_thread(self.tracing.close)
            _log.info("stopped", duration_s=round(time.monotonic() - started, 3))

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Drain, whatever ended the block."""
        await self.stop()

    def _remedy(self, field: str) -> str:
        flag = f"--{field.replace('_', '-')}"
        return f"set {self._settings.variable(field)} ({flag}) to another address"

    def _bound(self) -> Address:
        settings, target = self._settings, str(bindable(self._settings.listen))
        remedy = self._remedy("listen")
        refuse_unbindable(settings.listen, remedy)
        try:
            if settings.tls_certificate and settings.tls_key:
                credentials = tls.server_credentials(
                    settings.tls_certificate, settings.tls_key, settings.tls_client_ca
                )
                port = self.grpc.add_secure_port(target, credentials)
            else:
                port = self.grpc.add_insecure_port(target)
        except RuntimeError as error:
            # Somebody was quicker in the moment since the question.
            raise StartupError(f"cannot listen on {settings.listen}: {error}; {remedy}") from None
        return settings.listen.with_port(port)


def _write_whole(path: Path, content: str) -> None:
    """Write a file so that nobody who waits for it reads half of it."""
    draft = path.with_name(f"{path.name}.draft")
    draft.write_text(content)
    draft.replace(path)
