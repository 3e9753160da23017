"""Answering a stream of requests in order, while the next ones are under way already."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

Request = TypeVar("Request")
Response = TypeVar("Response")


async def answered_in_order(
    requests: AsyncIterator[Request],
    answer: Callable[[Request], Awaitable[Response]],
    most: int,
) -> AsyncGenerator[Response, None]:
    """The answers to ``requests``, in their order; at most ``most`` are worked on at once.

    Raises whatever the requests or an answer end with, after the answers before it.
    """
    places = asyncio.Semaphore(most)
    under_way: asyncio.Queue[asyncio.Future[Response] | None] = asyncio.Queue()

    async def read() -> None:
        try:
            await places.acquire()
            async for request in requests:
                under_way.put_nowait(asyncio.ensure_future(answer(request)))
                await places.acquire()
        finally:
            under_way.put_nowait(None)

    reading = asyncio.ensure_future(read())
    try:
        while (answering := await under_way.get()) is not None:
            yield await answering
            places.release()
        await reading
    finally:
        _abandon(reading)
        while not under_way.empty():
            answering = under_way.get_nowait()
            if answering is not None:
                _abandon(answering)


def _abandon(future: asyncio.Future[Any]) -> None:
    """Cancel what nobody waits for any more; if it has failed or fails, nobody need know."""
    future.cancel()
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
