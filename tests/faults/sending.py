"""Senders that stream as fast as they can, remember what was acknowledged, and never give up."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import grpc.aio
from tests.simic import simulated
from tests.simic.running import Client

from chassis.status import from_rpc_error
from leyline.v1.experience_pb2 import (
    ExperienceItem,
    StreamTransitionsRequest,
    StreamTransitionsResponse,
)

HORIZON = 200
MOST_ITEMS = 16
RETRY_S = 0.05


class AcknowledgedIsLost(AssertionError):
    """The service has less than it said that it has."""


@dataclass
class Service:
    """Where the service is at the moment; it has another address in each of its lives."""

    address: str = ""


@dataclass
class Sender:
    """Sends the episodes of one run, one after the other.

    Attributes:
        ended: episodes that are acknowledged as a whole, their ends included.
        sent: items that were handed to gRPC; those that were sent again count again.
        refusals: why calls ended that were not cut off, by reason: each may be tried again.
    """

    run: str
    service: Service
    draw: random.Random
    ended: int = 0
    sent: int = 0
    refusals: set[str] = field(default_factory=set)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self) -> None:
        """Send until it is told to stop, and then to the end of the episode.

        Raises:
            AcknowledgedIsLost: a step that was acknowledged is not stored.
        """
        while not self.stopping.is_set():
            await self._episode()
            self.ended += 1

    async def _episode(self) -> None:
        acknowledged = 0
        while acknowledged <= HORIZON:
            try:
                async with grpc.aio.insecure_channel(self.service.address) as channel:
                    client = Client(channel)
                    begun = await client.experience.BeginEpisode(
                        simulated.begin(self.run, self.ended, HORIZON), timeout=30
                    )
                    # The end of an episode counts among its items, and not among its steps.
                    if begun.next_step < min(acknowledged, HORIZON):
                        raise AcknowledgedIsLost(
                            f"{self.run} episode {self.ended}: {acknowledged} items were "
                            f"acknowledged, {begun.next_step} steps are stored"
                        )
                    # From its own last acknowledgement, or from what the service says: as may be.
                    first = self.draw.choice([acknowledged, max(acknowledged, begun.next_step)])
                    items = list(simulated.items(self.run, self.ended, begun.fence, HORIZON))
                    for number, item in enumerate(items, 1):
                        item.sequence = number
                    async for reached in self._stream(client, items[first:]):
                        acknowledged = max(acknowledged, reached)
            except grpc.aio.AioRpcError as error:
                said = from_rpc_error(error)
                if said.reason and not said.is_retryable:
                    raise
                self.refusals.add(said.reason or said.status.name)
                await asyncio.sleep(RETRY_S)

    async def _stream(self, client: Client, items: Sequence[ExperienceItem]) -> AsyncIterator[int]:
        """How many items of the episode are acknowledged, again and again."""

        async def requests() -> AsyncIterator[StreamTransitionsRequest]:
            left = items
            while left:
                count = self.draw.randint(1, MOST_ITEMS)
                self.sent += len(left[:count])
                yield StreamTransitionsRequest(items=left[:count])
                left = left[count:]

        response: StreamTransitionsResponse
        async for response in client.experience.StreamTransitions(requests()):
            assert not response.rejected, f"refused: {response.rejected[0]}"
            yield response.acknowledged_sequence
