"""A policy's versions as a gRPC server: what Tamiyo and policies of one's own have in common."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from chassis.server import Server
from leyline.v1.policy_pb2_grpc import add_PolicyServiceServicer_to_server
from tamiyo.batch import DecisionBatcher
from tamiyo.metrics import PolicyMetrics, VersionMetrics
from tamiyo.policy import Policy
from tamiyo.servicer import SERVICE, Introduction, PolicyServicer
from tamiyo.settings import PolicySettings
from tamiyo.shadow import Shadow
from tamiyo.versions import BuiltInVersions, LearnedVersions

if TYPE_CHECKING:
    from chassis.spans import Tracing


async def serve_versions(
    settings: PolicySettings,
    introduction: Introduction,
    versions: BuiltInVersions | LearnedVersions,
    *,
    in_thread: bool = False,
    shadow: Callable[[], Awaitable[Policy]] | None = None,
    tracing: Tracing | None = None,
) -> None:
    """Serve until the task is cancelled; then drain.

    Args:
        settings: where and how.
        introduction: what the server says of its policy.
        versions: what decides.
        in_thread: whether it may take so long that it must not hold up the event loop.
        shadow: gives a policy that is asked the same and only logged.
        tracing: is told of calls and decisions; it is closed at the end.

    Raises:
        StartupError: the address cannot be used.
    """
    server = Server(settings, [SERVICE], tracing)
    metrics = PolicyMetrics(server.metrics)
    if isinstance(versions, LearnedVersions):
        server.show(VersionMetrics(versions))
    # The batches outlive the server, so that draining calls still get their answers.
    async with DecisionBatcher(
        settings.queue_size, in_thread=in_thread, on_batch=metrics.answered
    ) as batcher:
        beside = None if shadow is None else Shadow(shadow, metrics)
        if beside is not None:
            beside.start()
        servicer = PolicyServicer(introduction, versions, batcher, metrics, beside, tracing)
        add_PolicyServiceServicer_to_server(servicer, server.grpc)
        try:
            async with server:
                if isinstance(versions, LearnedVersions):
                    server.set_not_serving("no version of the policy has been loaded yet")
                    await versions.ready.wait()
                await server.serve()
        finally:
            if beside is not None:
                await beside.close()


def add_server_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a server, whatever policy it serves."""
    parser.add_argument("--listen", metavar="HOST:PORT", help="default 127.0.0.1:50052")
    parser.add_argument(
        "--metrics-listen",
        metavar="HOST:PORT",
        help="where GET /metrics answers Prometheus; default: nowhere",
    )
    parser.add_argument(
        "--trace-endpoint",
        metavar="HOST:PORT",
        help="collector that takes traces by OTLP over gRPC; default: none",
    )
    parser.add_argument(
        "--insecure",
        action="store_const",
        const=True,
        help="allow plain text, or calls of whoever comes, where other machines reach it",
    )
    parser.add_argument("--port-file", type=Path, metavar="FILE", help="write the address there")
    parser.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning, or error")
