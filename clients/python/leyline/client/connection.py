"""A connection to one server, and what all calls have in common."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Protocol, Self, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from leyline.channel import NO_CREDENTIALS, Credentials, FileChannel
from leyline.client.patience import OnBreak, Patience
from leyline.error import ServiceError, from_rpc_error

CALL_TIMEOUT_S = 30.0
_HEALTH_POLL_S = 0.1

Answer = TypeVar("Answer")


class _Event(Protocol):
    @property
    def sequence(self) -> int: ...


Event = TypeVar("Event", bound=_Event)


def _silently(error: ServiceError, wait_s: float) -> None:
    """Tell nobody."""


class Client:
    """A connection to one server. Use it as an asynchronous context."""

    def __init__(
        self,
        address: str,
        credentials: Credentials = NO_CREDENTIALS,
        on_break: OnBreak = _silently,
    ) -> None:
        """Prepare a connection; it is made by the first call.

        Args:
            address: `HOST:PORT` or `unix:/absolute/path`.
            credentials: whom to trust, and what to show.
            on_break: told whenever a stream broke and will be called again.
        """
        self.address = address
        self._credentials = credentials
        self._on_break = on_break

    async def __aenter__(self) -> Self:
        """Open the channel.

        Raises:
            CredentialsError: a file cannot be read, or the token would leave this machine in plain
                text.
        """
        # A service that comes back is found within two seconds; gRPC's own longest wait is 120.
        options = [
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2000),
        ]
        self._channel = FileChannel(self.address, self._credentials, options)
        self._open(self._channel)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._channel.close()

    def _open(self, channel: grpc.aio.Channel) -> None:
        """Make the stubs that the client calls."""

    async def health(self, service: str = "") -> str:
        """Return SERVING or NOT_SERVING, for one of the server's services or for the whole."""
        request = health_pb2.HealthCheckRequest(service=service)
        stub = health_pb2_grpc.HealthStub(self._channel)
        answer = await self._call(stub.Check(request, timeout=CALL_TIMEOUT_S))
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    async def serving(self, within_s: float) -> None:
        """Wait until the server says that it serves.

        Raises:
            ServiceError: `within_s` seconds later it still does not.
        """
        status = "it has not answered"
        try:
            async with asyncio.timeout(within_s):
                while True:
                    try:
                        status = await self.health()
                    except ServiceError as error:
                        status = str(error)
                    if status == "SERVING":
                        return
                    await asyncio.sleep(_HEALTH_POLL_S)
        except TimeoutError:
            message = f"the service at {self.address} does not serve: {status}"
            raise ServiceError("UNAVAILABLE", "", message) from None

    async def _call(self, call: Awaitable[Answer]) -> Answer:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, self.address) from None

    async def _patiently(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        """Make a call that may be made twice, again and again while the service is away."""
        patience = Patience(self._on_break)
        while True:
            patience.calls()
            try:
                return await self._call(call())
            except ServiceError as error:
                await patience.after(error)

    async def _stream(self, call: AsyncIterable[Answer]) -> AsyncIterator[Answer]:
        try:
            async for answer in call:
                yield answer
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, self.address) from None

    async def _watch(
        self, call: Callable[[int], AsyncIterable[Event]], after: int
    ) -> AsyncIterator[Event]:
        """Yield events after a sequence, each once, calling again after each break."""
        patience = Patience(self._on_break)
        while True:
            patience.calls()
            try:
                async for event in self._stream(call(after)):
                    after = event.sequence
                    patience.hears()
                    yield event
                return
            except ServiceError as error:
                await patience.after(error)
