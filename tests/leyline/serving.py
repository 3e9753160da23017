"""A trainer of a test's own, served for a while."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from leyline.channel import NO_CREDENTIALS
from leyline.client import OnBreak, Trainer
from leyline.v1.trainer_pb2_grpc import TrainerServiceServicer, add_TrainerServiceServicer_to_server


@asynccontextmanager
async def trainer_of(
    servicer: TrainerServiceServicer, on_break: OnBreak = lambda error, wait_s: None
) -> AsyncIterator[Trainer]:
    """A client of the servicer."""
    server = grpc.aio.server()
    add_TrainerServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with Trainer(f"127.0.0.1:{port}", NO_CREDENTIALS, on_break) as trainer:
            yield trainer
    finally:
        await server.stop(None)
