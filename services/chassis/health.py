"""The standard health service, closed until the server can serve.

Our own instead of grpcio-health-checking's servicer, for three reasons: that one says SERVING for
"" from the start; its open watches hold a drain for the whole grace; and when one of several
watchers of a service leaves, the others hear nothing more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

import grpc
from grpc_health.v1 import (  # type: ignore[import-untyped]
    health_pb2,
    health_pb2_grpc,
)

Context = grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

SERVICE_NAME: str = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """One answer for all services of a server, because they live and die together.

    Attributes:
        serving: whether calls are welcome now.
        reason: why not, for logs and for services that tell their users; empty while serving.
    """

    def __init__(self, services: Iterable[str]) -> None:
        """Start closed, for the full names in ``services`` and for "", the server as a whole."""
        self._services = frozenset(services) | {""}
        self._ended = False
        self._changed = asyncio.Event()
        self.serving = False
        self.reason = "starting"

    def open(self) -> None:
        """Say SERVING from now on; no effect once ended."""
        if not self._ended:
            self._set(serving=True, reason="")

    def close(self, reason: str) -> None:
        """Say NOT_SERVING from now on; no effect once ended."""
        if not self._ended:
            self._set(serving=False, reason=reason)

    def end(self, reason: str) -> None:
        """Say NOT_SERVING for good, and end every watch after it has said so."""
        self.close(reason)
        self._ended = True

    def _set(self, *, serving: bool, reason: str) -> None:
        self.serving, self.reason = serving, reason
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """Answer once; NOT_FOUND for a service that is not here, as the protocol wants it."""
        if request.service not in self._services:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"no service {request.service!r} is served here"
            )
        return self._response(request.service)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Answer now and at every change; SERVICE_UNKNOWN for a service that is not here."""
        last = None
        while True:
            changed = self._changed
            response = self._response(request.service)
            if response.status != last:
                last = response.status
                # While this waits for the client things may change: look again before waiting.
                yield response
            elif self._ended:
                return
            else:
                await changed.wait()

    def _response(self, service: str) -> health_pb2.HealthCheckResponse:
        if service not in self._services:
            return health_pb2.HealthCheckResponse(status=_SERVICE_UNKNOWN)
        return health_pb2.HealthCheckResponse(status=_SERVING if self.serving else _NOT_SERVING)
