from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

from simic.experience.ahead import answered_in_order


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


async def until_lookup_error(answers: AsyncIterator[int]) -> list[int]:
    """The answers before the error that they end with."""
    got: list[int] = []
    try:
        async for each in answers:
            got.append(each)
    except LookupError:
        return got
    raise AssertionError("it does not end with an error")


async def test_answers_come_in_the_order_of_the_requests_whichever_is_ready_first() -> None:
    async def answer(number: int) -> int:
        for _ in range(10 - number):
            await asyncio.sleep(0)
        return number

    assert [each async for each in answered_in_order(numbers(10), answer, 4)] == [*range(10)]


async def test_no_more_are_under_way_than_may_be() -> None:
    under_way: set[int] = set()
    most = 0

    async def answer(number: int) -> int:
        nonlocal most
        under_way.add(number)
        most = max(most, len(under_way))
        await asyncio.sleep(0.001)
        under_way.remove(number)
        return number

    assert [each async for each in answered_in_order(numbers(20), answer, 3)] == [*range(20)]
    assert most == 3


async def test_an_answer_that_fails_ends_it_after_those_before_and_stops_those_behind() -> None:
    stopped = []

    async def answer(number: int) -> int:
        if number == 2:
            raise LookupError
        try:
            await asyncio.sleep(0.001 if number < 2 else 60)
        except asyncio.CancelledError:
            stopped.append(number)
            raise
        return number

    assert await until_lookup_error(answered_in_order(numbers(20), answer, 4)) == [0, 1]
    await asyncio.sleep(0.01)
    assert 3 in stopped
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_requests_that_fail_do_so_after_the_answers_before() -> None:
    async def requests() -> AsyncIterator[int]:
        yield 0
        yield 1
        raise LookupError

    async def answer(number: int) -> int:
        await asyncio.sleep(0.001)
        return number

    assert await until_lookup_error(answered_in_order(requests(), answer, 4)) == [0, 1]


async def test_one_who_goes_away_leaves_nothing_running() -> None:
    async def answer(number: int) -> int:
        if number:
            await asyncio.sleep(60)
        return number

    async def endless() -> AsyncIterator[int]:
        while True:
            yield 0
            await asyncio.sleep(60)

    for requests in (numbers(5), endless()):
        async with aclosing(answered_in_order(requests, answer, 4)) as answers:
            assert await anext(answers) == 0
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
