"""Spans by OpenTelemetry: of the steps of an episode, at whichever service, and of unary calls.

The spans of a step are of one trace. Its context travels with the messages (``traceparent``),
since a call lasts for many of them. A stream of messages has no span of its own.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager
from importlib.metadata import version
from typing import Any, Final, Literal, TypeAlias

import grpc
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from chassis.address import Address
from chassis.collector import CollectorExporter
from leyline.channel import Credentials
from leyline.v1.snapshot_pb2 import StepId

Kind: TypeAlias = Literal["internal", "client", "server", "consumer"]
Respond: TypeAlias = Callable[[Any, Any], Awaitable[Any]]

TRACEPARENT: Final = "traceparent"

_WAITING_SPANS = 2048
_BATCH_SPANS = 512
_BATCH_MS = 1000
_CLOSE_S = 1.0

_W3C = TraceContextTextMapPropagator()
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Tracing:
    """What a service tells its collector.

    What there is to tell waits in a queue for a thread that sends it; while the queue is full,
    what waits longest is lost.

    Attributes:
        interceptors: of channels whose unary calls are to be traced.
    """

    def __init__(
        self, service: str, endpoint: Address, credentials: Credentials, ratio: float
    ) -> None:
        """Begin.

        Args:
            service: its name in traces.
            endpoint: where the collector takes OTLP over gRPC.
            credentials: by which certificates; without any, in plain text.
            ratio: share of the traces that begin here which are recorded; of one that began
                elsewhere, its beginner has decided.

        Raises:
            ConfigurationError: a certificate cannot be used.
        """
        self._exporter = CollectorExporter(endpoint, credentials)
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)),
            resource=Resource.create({"service.name": service, "service.namespace": "leyline"}),
            # It would wait for the collector at the process's end.
            shutdown_on_exit=False,
            id_generator=_Ids(),
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                self._exporter,
                max_queue_size=_WAITING_SPANS,
                schedule_delay_millis=_BATCH_MS,
                max_export_batch_size=_BATCH_SPANS,
            )
        )
        self._tracer = self._provider.get_tracer("leyline", version("leyline-growth"))
        self.interceptors = (_ClientCalls(self),)

    def step(
        self, name: str, step_id: StepId, kind: Kind = "internal", parent: str | None = None
    ) -> AbstractContextManager[object]:
        """Give a span of a step, for as long as the block lasts.

        Args:
            name: what is done.
            step_id: the step.
            kind: as OpenTelemetry says.
            parent: the traceparent that came with a message; None: the span that this one is
                within, or the beginning of a trace.
        """
        return self._tracer.start_as_current_span(
            name,
            _context(parent),
            SpanKind[kind.upper()],
            _facts(step_id),
            record_exception=False,
        )

    def tell_step(
        self,
        name: str,
        step_id: StepId,
        kind: Kind,
        parent: str,
        began_ns: int,
        error: str | None = None,
    ) -> None:
        """Tell of a span of a step that ends now.

        Args:
            name, step_id, kind, parent: as for ``step``.
            began_ns: when it began, in nanoseconds since 1970.
            error: why it failed; None where it did not.
        """
        span = self._tracer.start_span(
            name, _context(parent), SpanKind[kind.upper()], _facts(step_id), start_time=began_ns
        )
        if error is not None:
            span.set_status(Status(StatusCode.ERROR, error))
        span.end()

    def add(self, **facts: str | int | float | None) -> None:
        """Say more of the span that this is within; None is not said."""
        span = trace.get_current_span()
        for name, fact in facts.items():
            if fact is not None:
                span.set_attribute(f"leyline.{name}", fact)

    def traceparent(self) -> str | None:
        """Give the context of the span that this is within; None where it is not recorded."""
        if not trace.get_current_span().get_span_context().trace_flags.sampled:
            return None
        return _carrier()[TRACEPARENT]

    def served(
        self,
        method: str,
        answer: Respond,
        status_of: Callable[[Exception], grpc.StatusCode],
    ) -> Respond:
        """Give what answers a unary call that was let in, with a span around it.

        Args:
            method: as gRPC writes it, ``/package.Service/Method``.
            answer: takes the request and the context.
            status_of: the code with which the call ends that raises an exception.
        """

        async def traced(request: Any, context: Any) -> Any:
            with self.call(method, "server", _given(context.invocation_metadata())) as span:
                code = grpc.StatusCode.OK
                try:
                    return await answer(request, context)
                except asyncio.CancelledError:
                    code = grpc.StatusCode.CANCELLED
                    raise
                except grpc.aio.AbortError:
                    code = _code(context.code())
                    raise
                except Exception as error:
                    code = status_of(error)
                    raise
                finally:
                    _end(span, code)

        return traced

    def call(
        self, method: str, kind: Kind, parent: str | None = None
    ) -> AbstractContextManager[Span]:
        """Give the span of a call, for as long as the block lasts.

        Args:
            method: as gRPC writes it, ``/package.Service/Method``.
            kind, parent: as for ``step``.
        """
        name = method.removeprefix("/")
        return self._tracer.start_as_current_span(
            name,
            _context(parent),
            SpanKind[kind.upper()],
            {"rpc.system.name": "grpc", "rpc.method": name},
            record_exception=False,
            set_status_on_exception=False,
        )

    def close(self) -> None:
        """Send what is left, as far as the collector takes it within a second."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(_CLOSE_S)
        if closing.is_alive():
            self._exporter.shutdown()
            closing.join(_CLOSE_S)


class _Ids(IdGenerator):
    """Random ids.

    Not of the process's own stream of random numbers, which a host of somebody's own may have
    seeded: then it would be disturbed, and each run would have the same ids.
    """

    def generate_span_id(self) -> int:
        return secrets.randbelow(2**64 - 1) + 1

    def generate_trace_id(self) -> int:
        return secrets.randbelow(2**128 - 1) + 1

    def is_trace_id_random(self) -> bool:
        return True


class _ClientCalls(grpc.aio.UnaryUnaryClientInterceptor):
    """A span around each unary call; the server is told of it."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        """Make the call, and wait for its end."""
        method = client_call_details.method
        name = method.decode() if isinstance(method, bytes) else method
        with self._tracing.call(name, "client") as span:
            said = (*(client_call_details.metadata or ()), *_carrier().items())
            details = client_call_details._replace(metadata=grpc.aio.Metadata(*said))
            call = await continuation(details, request)
            try:
                code = await call.code()
            finally:
                # Where the caller does not wait any longer; one that has ended is left as it is.
                call.cancel()
            _end(span, code)
            return call


def _end(span: Span, code: grpc.StatusCode) -> None:
    span.set_attribute("rpc.response.status_code", code.name)
    if code is not grpc.StatusCode.OK:
        span.set_status(Status(StatusCode.ERROR, code.name))


def _code(said: Any) -> grpc.StatusCode:
    """The code that a call was aborted with; grpc.aio says its number, whatever the types say."""
    return said if isinstance(said, grpc.StatusCode) else _CODES[said]


def _facts(step_id: StepId) -> dict[str, str | int]:
    return {
        "leyline.run_id": step_id.run_id,
        "leyline.episode": step_id.episode_index,
        "leyline.step": step_id.step,
    }


def _context(parent: str | None) -> Context | None:
    """The context of a remote parent; one that makes no sense is none."""
    return None if parent is None else _W3C.extract({TRACEPARENT: parent})


def _carrier() -> dict[str, str]:
    """What tells others of the span that this is within; nothing of a library that is disabled."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier)
    return carrier


def _given(metadata: Iterable[tuple[str, str | bytes]] | None) -> str | None:
    for key, value in metadata or ():
        if key == TRACEPARENT and isinstance(value, str):
            return value
    return None
