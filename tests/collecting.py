"""A collector of traces, as OpenTelemetry's protocol has it, in the test's own process."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1 import trace_pb2

PATIENCE_S = 120.0


@dataclass(frozen=True)
class Told:
    """A span that was sent.

    Attributes:
        service: whose it is.
        trace, span, parent: ids in hexadecimal; the parent's is empty where a trace begins.
        kind: SERVER, say.
        facts: its attributes.
        failed: whether its status is ERROR.
    """

    service: str
    name: str
    trace: str
    span: str
    parent: str
    kind: str
    facts: Mapping[str, str | int]
    failed: bool
    began_ns: int
    ended_ns: int

    @property
    def traceparent(self) -> str:
        """What a message says in whose sender's span this is."""
        return f"00-{self.trace}-{self.span}-01"


class Collector(TraceServiceServicer):
    """Keeps every span, and what was sent beside the spans.

    Attributes:
        address: where it takes them.
    """

    def __init__(self) -> None:
        self.address = ""
        self.spans: list[Told] = []
        self.metadata: list[tuple[str, Any]] = []

    async def Export(self, request: ExportTraceServiceRequest, context: Any) -> Any:
        self.metadata.extend(context.invocation_metadata())
        for of_resource in request.resource_spans:
            service = _facts(of_resource.resource.attributes)["service.name"]
            for of_scope in of_resource.scope_spans:
                self.spans += [_told(str(service), span) for span in of_scope.spans]
        return ExportTraceServiceResponse()

    async def told(self, what: str, enough: Callable[[list[Told]], bool]) -> list[Told]:
        """Every span so far, once they are enough."""
        deadline = time.monotonic() + PATIENCE_S
        while not enough(self.spans):
            assert time.monotonic() < deadline, f"never told of {what}: {self.spans}"
            await asyncio.sleep(0.05)
        return list(self.spans)

    async def have(self, number: int) -> list[Told]:
        """Every span so far, once there are so many."""
        return await self.told(f"{number} spans", lambda spans: len(spans) >= number)


@asynccontextmanager
async def collecting(
    credentials: grpc.ServerCredentials | None = None, listen: str = "127.0.0.1:0"
) -> AsyncIterator[Collector]:
    """A collector while the block lasts; over TLS with credentials."""
    collector, server = Collector(), grpc.aio.server()
    add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    if credentials is None:
        port = server.add_insecure_port(listen)
    else:
        port = server.add_secure_port(listen, credentials)
    collector.address = f"127.0.0.1:{port}"
    await server.start()
    try:
        yield collector
    finally:
        await server.stop(None)


def without_opentelemetry(folder: Path) -> dict[str, str]:
    """An environment for processes in which OpenTelemetry is not installed."""
    refusal = 'raise ModuleNotFoundError("there is none", name="opentelemetry")\n'
    first = folder / "first"
    first.mkdir()
    (first / "opentelemetry.py").write_text(refusal)
    return {"PYTHONPATH": os.pathsep.join([str(first), os.environ.get("PYTHONPATH", "")])}


def _told(service: str, span: trace_pb2.Span) -> Told:
    return Told(
        service=service,
        name=span.name,
        trace=span.trace_id.hex(),
        span=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        facts=_facts(span.attributes),
        failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        began_ns=span.start_time_unix_nano,
        ended_ns=span.end_time_unix_nano,
    )


def _facts(attributes: Any) -> dict[str, str | int]:
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value") or "string_value")
        for each in attributes
    }
