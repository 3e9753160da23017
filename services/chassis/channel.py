"""Channels to other servers: the client's half of ``chassis.transport``, in one place."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from chassis import tls
from chassis.logging import REQUEST_ID, bound_fact
from chassis.status import RemoteError
from chassis.transport import Transport

REQUEST_ID_KEY = "x-request-id"


@dataclass(frozen=True)
class ChannelSettings:
    """Whom to call, and how.

    Attributes:
        target: HOST:PORT, unix:/path, or any other target of gRPC's, such as dns:///name:port.
        ca: PEM certificates to trust; None calls in plain text.
        certificate: PEM certificate to show, or None.
        key: its private key, or None.
        transport: sizes and keepalive; the same as the server's.
    """

    target: str
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    transport: Transport = field(default_factory=Transport)


def open_channel(settings: ChannelSettings) -> grpc.aio.Channel:
    """Open a channel; it connects by itself, now and after every loss, within two seconds.

    Raises:
        ConfigurationError: a certificate cannot be used.
    """
    options = settings.transport.channel_options()
    if settings.ca is None:
        return grpc.aio.insecure_channel(settings.target, options=options)
    credentials = tls.channel_credentials(settings.ca, settings.certificate, settings.key)
    return grpc.aio.secure_channel(settings.target, credentials, options=options)


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
