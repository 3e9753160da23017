"""Decisions in batches: one forward pass over everything that waits, from whatever stream.

While a batch is computed, in a thread of its own, queries gather; they are the next batch. So a
lonely query waits for nobody, and under load batches grow by themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from chassis.errors import ErrorCode, LeylineError
from leyline.v1.decision_pb2 import Decision, DecisionQuery
from tamiyo.policy import Policy, decision_from


@dataclass(frozen=True)
class _Question:
    """A query, the policy version that it was resolved to, and where its answer goes."""

    policy: Policy
    query: DecisionQuery
    answer: asyncio.Future[Decision] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class DecisionBatcher:
    """Answers queries in batches, as an asynchronous context: outside it, nothing is answered.

    A query keeps the policy that it came with, so a version that becomes the default meanwhile
    changes nothing for what waits already: a swap happens between two batches.
    """

    def __init__(self, limit: int) -> None:
        """Let at most ``limit`` queries wait while a batch is computed."""
        self._limit = limit
        self._waiting: list[_Question] = []
        self._unanswered: set[asyncio.Future[Decision]] = set()
        self._arrival = asyncio.Event()
        # One thread: an artifact takes one call at a time, and two would share the same cores.
        self._executor = ThreadPoolExecutor(1, "decisions")
        self._work: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin to answer."""
        self._work = asyncio.create_task(self._answer_for_ever(), name="decision batches")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop: what still waits is refused."""
        work, self._work = self._work, None
        if work is not None:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        for answer in self._unanswered:
            if not answer.done():
                answer.set_exception(LeylineError(ErrorCode.SHUTTING_DOWN))
        self._waiting.clear()
        # A batch that is being computed takes a moment; a process must not end under its thread.
        await asyncio.to_thread(self._executor.shutdown)

    async def decide(self, policy: Policy, query: DecisionQuery) -> Decision:
        """Let a policy answer a query that it admits.

        Raises:
            LeylineError: QUEUE_FULL where too many are waiting; SHUTTING_DOWN; or what the policy
                says about the query.
        """
        if self._work is None:
            raise LeylineError(ErrorCode.SHUTTING_DOWN)
        if len(self._waiting) >= self._limit:
            raise LeylineError(
                ErrorCode.QUEUE_FULL, queue="the queue of decisions", limit=self._limit
            )
        question = _Question(policy, query)
        self._waiting.append(question)
        self._unanswered.add(question.answer)
        self._arrival.set()
        try:
            return await question.answer
        finally:
            self._unanswered.discard(question.answer)

    async def _answer_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrival.wait()
            self._arrival.clear()
            # Whoever does not wait any longer, past a deadline or gone, is not computed for.
            batch = [question for question in self._waiting if not question.answer.done()]
            self._waiting.clear()
            for policy, questions in _by_policy(batch):
                queries = [question.query for question in questions]
                answers = await loop.run_in_executor(self._executor, _answer, policy, queries)
                for question, answer in zip(questions, answers, strict=True):
                    if question.answer.done():
                        continue
                    if isinstance(answer, Decision):
                        question.answer.set_result(answer)
                    else:
                        question.answer.set_exception(answer)


def _by_policy(batch: Sequence[_Question]) -> list[tuple[Policy, list[_Question]]]:
    """Group by the policy object; two of one version would be two groups, and agree."""
    groups: dict[int, tuple[Policy, list[_Question]]] = {}
    for question in batch:
        groups.setdefault(id(question.policy), (question.policy, []))[1].append(question)
    return list(groups.values())


def _answer(policy: Policy, queries: Sequence[DecisionQuery]) -> list[Decision | Exception]:
    """Ask a policy; where that fails, one by one, so that only the culprit gets the error."""
    try:
        choices = policy.decide(queries)
        return [decision_from(policy, *pair) for pair in zip(queries, choices, strict=True)]
    except Exception as error:
        # Whatever a policy raises belongs to whoever asked, who may be many calls.
        if len(queries) == 1:
            return [error]
        return [answer for query in queries for answer in _answer(policy, [query])]
