"""Decisions in batches: one forward pass over everything that waits, from whatever stream.

While a batch is computed, queries gather; they are the next batch. So a lonely query waits for
nobody, and under load batches grow by themselves. Where only one call is open, there is nobody to
gather, and its queries are answered at once.

A policy that answers in less time than it takes to hand a batch to a thread and back is asked in
the event loop's own; one that may take long, in a thread beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypeAlias

from chassis.errors import ErrorCode, LeylineError
from leyline.v1.decision_pb2 import Decision, DecisionQuery
from tamiyo.policy import Policy, decision_from


@dataclass(eq=False, slots=True)
class _Question:
    """A query, the policy version that it was resolved to, and where its answer goes."""

    policy: Policy
    query: DecisionQuery
    answer: asyncio.Future[Decision] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


def _silently(queries: int) -> None:
    """Tell nobody."""


class DecisionBatcher:
    """Answers queries in batches, as an asynchronous context: outside it, nothing is answered.

    A query keeps the policy that it came with, so a version that becomes the default meanwhile
    changes nothing for what waits already: a swap happens between two batches.
    """

    def __init__(
        self, limit: int, *, in_thread: bool, on_batch: Callable[[int], None] = _silently
    ) -> None:
        """Make a batcher that is not at work yet.

        Args:
            limit: queries that may wait while a batch is computed.
            in_thread: whether policies are asked in a thread beside the event loop.
            on_batch: told how many queries a version is asked at once.
        """
        self._limit = limit
        self._in_thread = in_thread
        self._on_batch = on_batch
        self._waiting: list[_Question] = []
        self._unanswered: set[asyncio.Future[Decision]] = set()
        self._calls = 0
        self._open = False
        self._busy = False
        # One thread: an artifact takes one call at a time, and two would share the same cores.
        self._executor = ThreadPoolExecutor(1, "decisions")

    async def __aenter__(self) -> Self:
        """Begin to answer."""
        self._open = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop: what still waits is refused."""
        self._open = False
        for answer in self._unanswered:
            if not answer.done():
                answer.set_exception(LeylineError(ErrorCode.SHUTTING_DOWN))
        self._waiting.clear()
        # A batch that is being computed takes a moment; a process must not end under its thread.
        await asyncio.to_thread(self._executor.shutdown)

    @contextmanager
    def call(self) -> Iterator[None]:
        """Surround a call of a client that may ask; `decide` belongs inside."""
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    async def decide(self, policy: Policy, query: DecisionQuery) -> Decision:
        """Let a policy answer a query that it admits.

        Raises:
            LeylineError: QUEUE_FULL where too many are waiting; SHUTTING_DOWN; or what the policy
                says about the query.
        """
        if not self._open:
            raise LeylineError(ErrorCode.SHUTTING_DOWN)
        if len(self._waiting) >= self._limit:
            raise LeylineError(
                ErrorCode.QUEUE_FULL, queue="the queue of decisions", limit=self._limit
            )
        if self._calls == 1 and not self._in_thread:
            self._on_batch(1)
            (answer,) = answers(policy, [query])
            if isinstance(answer, Decision):
                return answer
            raise answer
        question = _Question(policy, query)
        self._waiting.append(question)
        self._unanswered.add(question.answer)
        try:
            if not self._busy:
                await self._lead(question)
            return await question.answer
        finally:
            self._unanswered.discard(question.answer)

    async def _lead(self, question: _Question) -> None:
        """Begin a batch with all that arrives in this turn of the event loop."""
        self._busy = True
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            question.answer.cancel()
            raise
        finally:
            self._begin()

    def _begin(self) -> None:
        """Take all that waits as one batch."""
        # Whoever does not wait any longer, past a deadline or gone, is not computed for.
        batch = _by_policy([it for it in self._waiting if not it.answer.done()])
        self._waiting.clear()
        for _, questions in batch:
            self._on_batch(len(questions))
        if self._in_thread and batch:
            answering = asyncio.get_running_loop().run_in_executor(
                self._executor, _batch_answers, batch
            )
            answering.add_done_callback(lambda done: self._end(batch, done.result()))
        else:
            self._end(batch, _batch_answers(batch))

    def _end(self, batch: Sequence[_Group], answered_batch: Sequence[_Answers]) -> None:
        """Tell everybody, and begin the next batch where others have come meanwhile."""
        for (_, questions), answered in zip(batch, answered_batch, strict=True):
            for question, answer in zip(questions, answered, strict=True):
                if question.answer.done():
                    continue
                if isinstance(answer, Decision):
                    question.answer.set_result(answer)
                else:
                    question.answer.set_exception(answer)
        self._busy = bool(self._waiting)
        if self._busy:
            asyncio.get_running_loop().call_soon(self._begin)


_Group: TypeAlias = tuple[Policy, list[_Question]]
_Answers: TypeAlias = Sequence[Decision | Exception]


def _by_policy(questions: Sequence[_Question]) -> list[_Group]:
    """Group by the policy object; two of one version would be two groups, and agree."""
    groups: dict[int, _Group] = {}
    for question in questions:
        groups.setdefault(id(question.policy), (question.policy, []))[1].append(question)
    return list(groups.values())


def _batch_answers(batch: Sequence[_Group]) -> list[_Answers]:
    return [answers(policy, [it.query for it in questions]) for policy, questions in batch]


def answers(policy: Policy, queries: Sequence[DecisionQuery]) -> Sequence[Decision | Exception]:
    """Ask a policy; where that fails, one by one, so that only the culprit gets the error."""
    try:
        choices = policy.decide(queries)
        return [decision_from(policy, *pair) for pair in zip(queries, choices, strict=True)]
    except Exception as error:
        # Whatever a policy raises belongs to whoever asked, who may be many calls.
        if len(queries) == 1:
            return [error]
        return [answer for query in queries for answer in answers(policy, [query])]
