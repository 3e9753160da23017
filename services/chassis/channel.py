"""Channels to other servers: the client's half of ``chassis.transport``, in one place."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc

from chassis import tls
from chassis.logging import REQUEST_ID, bound_fact, get_logger
from chassis.process import ConfigurationError
from chassis.status import RemoteError
from chassis.transport import Transport
from leyline.channel import NO_CREDENTIALS, Credentials, CredentialsError, FileChannel

if TYPE_CHECKING:
    from chassis.spans import Tracing

REQUEST_ID_KEY = "x-request-id"

_log = get_logger(__name__)


@dataclass(frozen=True)
class ChannelSettings:
    """Whom to call, and how.

    Attributes:
        target: HOST:PORT, unix:/path, or any other target of gRPC's, such as dns:///name:port.
        credentials: whom to trust, and what to show.
        transport: sizes and keepalive; the same as the server's.
    """

    target: str
    credentials: Credentials = NO_CREDENTIALS
    transport: Transport = field(default_factory=Transport)


def open_channel(settings: ChannelSettings, tracing: Tracing | None = None) -> grpc.aio.Channel:
    """Open a channel; it connects by itself, now and after every loss, within two seconds.

    Its files may be replaced while it is open: calls that begin later go by what they hold then,
    and the log says so, or why not.

    Args:
        settings: whom to call, and how.
        tracing: is told of unary calls; None: nobody is.

    Raises:
        ConfigurationError: a certificate or the token cannot be used.
    """

    def told(problem: Exception | None) -> None:
        if problem is None:
            _log.info("credentials read", target=settings.target)
        else:
            _log.error("credentials not read", target=settings.target, problem=str(problem))

    credentials = settings.credentials
    if credentials.ca is not None:
        tls.check(credentials.ca, credentials.certificate, credentials.key)
    options = settings.transport.channel_options()
    try:
        interceptors = () if tracing is None else tracing.interceptors
        return FileChannel(settings.target, credentials, options, told, interceptors)
    except CredentialsError as error:
        raise ConfigurationError(str(error)) from None


async def wait_ready(channel: grpc.aio.Channel, target: str, timeout_s: float) -> None:
    """Wait until a channel is connected.

    Raises:
        RemoteError: UNAVAILABLE, when nobody answers at ``target`` within ``timeout_s``.
    """
    try:
        async with asyncio.timeout(timeout_s):
            await channel.channel_ready()
    except TimeoutError:
        raise RemoteError(
            grpc.StatusCode.UNAVAILABLE, f"nobody answered at {target} within {timeout_s:g} s"
        ) from None


def remaining_s(context: grpc.aio.ServicerContext[Any, Any], at_most_s: float) -> float:
    """Give the seconds for a call on behalf of an incoming one: no more than that one has left."""
    # None without a deadline, whatever the types say.
    left: float | None = context.time_remaining()
    return at_most_s if left is None else max(0.0, min(left, at_most_s))


def call_metadata() -> tuple[tuple[str, str], ...]:
    """Give the metadata of a call on behalf of an incoming one: its request id, to find both."""
    request_id = bound_fact(REQUEST_ID)
    return ((REQUEST_ID_KEY, request_id),) if request_id else ()
