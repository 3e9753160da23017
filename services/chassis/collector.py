"""The way of spans to their collector, which may be away: nobody waits for it."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from chassis import tls
from chassis.address import Address
from chassis.logging import get_logger
from leyline.channel import Credentials, CredentialsError, plain_text
from leyline.renewal import Renewed

_TIMEOUT_S = 5.0
"""For a batch of spans; then it is lost."""

# gRPC's own goes to two minutes.
_OPTIONS = (("grpc.max_reconnect_backoff_ms", 5000),)

_log = get_logger(__name__)


class CollectorExporter(SpanExporter):
    """Sends spans by OTLP over gRPC, each batch once.

    It takes up certificates that are replaced, and says once that the collector is away.
    """

    def __init__(self, endpoint: Address, credentials: Credentials) -> None:
        """Send to ``endpoint``; nothing is sent yet. The token of ``credentials`` is not shown.

        Raises:
            ConfigurationError: a certificate cannot be used.
        """
        if credentials.ca is not None:
            tls.check(credentials.ca, credentials.certificate, credentials.key)
        self._endpoint = str(endpoint)
        self._credentials = credentials
        self._channels = Renewed(credentials.files, self._made, CredentialsError, self._note_files)
        self._channel = self._channels.now()
        self._is_away = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans; waits for the collector, in the thread that is there for it."""
        channel = self._now()
        try:
            collector = TraceServiceStub(channel)  # type: ignore[no-untyped-call]
            collector.Export(encode_spans(spans), timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            self._note(f"{error.code().name}: {error.details()}")
            return SpanExportResult.FAILURE
        except ValueError:
            # The channel is closed: this is the end.
            return SpanExportResult.FAILURE
        self._note(None)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Send nothing more, and give up what is being sent."""
        self._channel.close()

    def _made(self) -> grpc.Channel:
        if self._credentials.ca is None:
            options = (*_OPTIONS, *plain_text(self._endpoint, with_token=False))
            return grpc.insecure_channel(self._endpoint, options)
        return grpc.secure_channel(self._endpoint, self._credentials.of_tls(), _OPTIONS)

    def _now(self) -> grpc.Channel:
        """The channel of what the certificates' files hold."""
        channel = self._channels.now()
        if channel is not self._channel:
            replaced, self._channel = self._channel, channel
            replaced.close()
        return channel

    def _note_files(self, _channel: grpc.Channel | None, problem: Exception | None) -> None:
        if problem is None:
            _log.info("credentials read", endpoint=self._endpoint)
        else:
            _log.error("credentials not read", endpoint=self._endpoint, problem=str(problem))

    def _note(self, trouble: str | None) -> None:
        """Say what is wrong once, and once that nothing is any more."""
        was_away, self._is_away = self._is_away, trouble is not None
        if trouble is not None and not was_away:
            _log.warning("traces are lost", endpoint=self._endpoint, reason=trouble)
        elif trouble is None and was_away:
            _log.info("traces are taken again", endpoint=self._endpoint)
