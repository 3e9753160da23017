from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from chassis.drain import Drain
from chassis.errors import ErrorCode, LeylineError


async def _numbers_then_silence(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number
    await asyncio.Event().wait()


async def test_a_stream_that_waits_is_interrupted_and_keeps_what_it_had() -> None:
    drain, seen = Drain(), []

    async def read() -> None:
        async for number in drain.cut(_numbers_then_silence(3)):
            seen.append(number)
            if number == 2:
                asyncio.get_running_loop().call_soon(drain.begin)

    with pytest.raises(LeylineError) as ended:
        await read()
    assert ended.value.code is ErrorCode.SHUTTING_DOWN
    assert seen == [0, 1, 2]


async def test_nothing_starts_to_wait_once_the_drain_has_begun() -> None:
    drain = Drain()
    drain.begin()
    with pytest.raises(LeylineError, match="shutting down"), drain.interrupting():
        pytest.fail("the block was entered")


async def test_a_stream_that_ends_by_itself_ends_without_an_error() -> None:
    async def three() -> AsyncIterator[int]:
        for number in range(3):
            yield number

    assert [number async for number in Drain().cut(three())] == [0, 1, 2]


async def test_every_waiting_stream_is_interrupted() -> None:
    drain = Drain()

    async def watch() -> None:
        with drain.interrupting():
            await asyncio.Event().wait()

    watchers = [asyncio.ensure_future(watch()) for _ in range(20)]
    await asyncio.sleep(0)
    drain.begin()
    results = await asyncio.gather(*watchers, return_exceptions=True)
    assert all(isinstance(result, LeylineError) for result in results)


async def test_a_cancellation_from_elsewhere_stays_one() -> None:
    drain = Drain()

    async def watch() -> None:
        with drain.interrupting():
            await asyncio.Event().wait()

    watcher = asyncio.ensure_future(watch())
    await asyncio.sleep(0)
    watcher.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watcher


async def test_somebody_elses_timeout_is_not_taken_for_the_drain() -> None:
    with pytest.raises(TimeoutError), Drain().interrupting():
        raise TimeoutError


async def test_the_drain_wakes_whoever_waits_for_it() -> None:
    drain = Drain()
    waiting = asyncio.ensure_future(drain.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    drain.begin()
    drain.begin()
    await waiting
    assert drain.begun
