"""Decisions for whole episodes, many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from leyline.conformance.checks.expect import count, decided, match, refused, same, same_step
from leyline.conformance.target import Connection, Failed, Skipped, Target, decision_of
from leyline.v1.decision_pb2 import DecisionQuery
from leyline.v1.policy_pb2 import (
    DecideRequest,
    StreamDecisionsRequest,
    StreamDecisionsResponse,
)


async def answers_in_order(target: Target, queries: int) -> None:
    """Each query of a stream gets its answer, in the order of the queries, with its step's id."""
    asked = _episode(target, 0, queries)
    async with target.connect() as connection:
        match(asked, await connection.stream(asked))


async def ends_after_the_last_answer(target: Target) -> None:
    """A stream that its caller has half-closed ends with OK once all is answered."""
    async with target.connect() as connection:
        if await connection.stream([]):
            raise Failed("a stream without a query got an answer")
        match(asked := _episode(target, 0, 2), await connection.stream(asked))


async def puts_errors_in_their_place(target: Target, of: int, wrong: Sequence[int]) -> None:
    """A query that cannot be answered gets an error in its place, and the stream goes on."""
    asked = _episode(target, 0, of)
    for place in wrong:
        asked[place].snapshot.val_accuracy = 1.5
    async with target.connect() as connection:
        answers = await connection.stream(asked)
    count(asked, answers)
    for place, (query, answer) in enumerate(zip(asked, answers, strict=True)):
        if place in wrong:
            await refused(
                decided(answer),
                code="INVALID_ARGUMENT",
                fields=["query.snapshot.val_accuracy"],
            )
            same_step(query, answer)
        else:
            match([query], [answer])


async def refuses_nothing_asked(target: Target) -> None:
    """A message without a query is refused in its place, by both methods; the stream goes on."""
    query = target.query(target.snapshot())
    async with target.connect() as connection:
        await refused(
            connection.decide_request(DecideRequest()), code="INVALID_ARGUMENT", fields=["query"]
        )
        stream = connection.open_stream()
        await stream.write(StreamDecisionsRequest())
        empty = await stream.read()
        count([query], [empty] if isinstance(empty, StreamDecisionsResponse) else [])
        await refused(decided(empty), code="INVALID_ARGUMENT", fields=["query"])
        if empty.HasField("step_id"):
            raise Failed("the answer to a message without a query names a step")
        await stream.write(StreamDecisionsRequest(query=query))
        match([query], [await stream.read()])
        stream.cancel()


async def says_the_same_as_decide(target: Target, queries: int) -> None:
    """A stream decides what Decide decides."""
    if not target.info.deterministic:
        raise Skipped("it says that it is not deterministic")
    asked = _episode(target, 0, queries)
    async with target.connect() as connection:
        streamed = [decision_of(answer) for answer in await connection.stream(asked)]
        for query, decision in zip(asked, streamed, strict=True):
            same(await connection.decide(query), decision, "on a stream")


async def keeps_streams_apart(target: Target, streams: int, queries: int) -> None:
    """Streams that are open at the same time each get their own answers, the same as alone."""
    episodes = [_episode(target, episode, queries) for episode in range(streams)]
    async with target.connect() as connection:
        # Every stream stands open before the first one ends: one after the other does not count.
        answers = await _together(connection, episodes)
        for asked, heard in zip(episodes, answers, strict=True):
            match(asked, heard)
        if not target.info.deterministic:
            return
        for episode in (0, streams // 2, streams - 1):
            alone = await connection.stream(episodes[episode])
            for crowded, answer in zip(answers[episode], alone, strict=True):
                same(decision_of(answer), decision_of(crowded), f"beside {streams - 1} streams")


async def survives_cancellation(target: Target, calls: int) -> None:
    """Streams that are cancelled in the middle disturb neither others nor what comes after."""
    asked = _episode(target, 0, 8)
    async with target.connect() as connection:
        steady = connection.open_stream()
        for round_, query in enumerate(asked):
            for call in range(calls // len(asked)):
                doomed = connection.open_stream()
                await doomed.write(_request(target, 1 + round_, call))
                doomed.cancel()
            await steady.write(StreamDecisionsRequest(query=query))
            match([query], [await steady.read()])
        await steady.done_writing()
        if await steady.read():
            raise Failed("a stream got more answers than queries")
        match(asked, await connection.stream(asked))


def _episode(target: Target, episode: int, queries: int) -> list[DecisionQuery]:
    return [target.query(target.snapshot(step, episode=episode)) for step in range(queries)]


def _request(target: Target, episode: int, step: int) -> StreamDecisionsRequest:
    return StreamDecisionsRequest(query=target.query(target.snapshot(step, episode=episode)))


async def _together(
    connection: Connection, episodes: Sequence[Sequence[DecisionQuery]]
) -> list[list[StreamDecisionsResponse]]:
    opened = asyncio.Barrier(len(episodes))

    async def play(asked: Sequence[DecisionQuery]) -> list[StreamDecisionsResponse]:
        call: Any = connection.open_stream()
        answers = []
        for query in asked:
            await call.write(StreamDecisionsRequest(query=query))
            answers.append(await call.read())
            if len(answers) == 1:
                await opened.wait()
        await call.done_writing()
        return answers

    return list(await asyncio.gather(*(play(asked) for asked in episodes)))
