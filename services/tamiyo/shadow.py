"""A shadow: a second policy that is asked what the served one was asked, and only logged."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable

from chassis.errors import LeylineError
from chassis.logging import get_logger
from leyline.v1.decision_pb2 import ActionType, Decision, DecisionQuery
from tamiyo.batch import answers
from tamiyo.metrics import PolicyMetrics
from tamiyo.policy import Policy, admit

_log = get_logger(__name__)

MOST_WAITING = 64
"""Questions that wait for the shadow; while as many do, further ones are skipped."""

_AT_ONCE = 8
"""Questions in one turn of the event loop. A served query waits for as many at most."""

_PAUSE_S = 5.0
"""How long a shadow that is not to be had is left alone."""

_REPEAT_S = 60.0
"""How long the same failure is not said again."""


class Shadow:
    """Asks the shadow after the answer is out, in turns of the event loop of its own.

    It has no part in the served queries' queue and batches: what it costs them is the time of one
    of its turns. It draws with the random numbers of the query, as the served policy did: two
    policies that agree about an action's probability draw the same action.
    """

    def __init__(self, policy: Callable[[], Awaitable[Policy]], metrics: PolicyMetrics) -> None:
        """Make it.

        Args:
            policy: gives the policy; asked until it has given it once.
            metrics: counts how often it agrees.
        """
        self._find = policy
        self._metrics = metrics
        self._waiting: deque[tuple[DecisionQuery, Decision]] = deque()
        self._asked = asyncio.Event()
        self._working: asyncio.Task[None] | None = None
        self._skipped = 0
        self._failed = 0
        self._said_at: dict[str, float] = {}

    def start(self) -> None:
        """Look for the policy: whoever asked for one that is not to be had is told at once.

        One task for all questions: a call's own would put that call's id into the others' lines.
        """
        self._working = asyncio.create_task(self._work())

    def ask(self, query: DecisionQuery, decision: Decision) -> None:
        """Ask about a valid query that was answered with a decision; returns at once."""
        if len(self._waiting) >= MOST_WAITING:
            self._skipped += 1
            return
        self._waiting.append((query, decision))
        self._asked.set()

    async def close(self) -> None:
        """Ask nothing more."""
        if self._working is not None:
            self._working.cancel()
            await asyncio.gather(self._working, return_exceptions=True)

    async def _work(self) -> None:
        policy = await self._found()
        while True:
            await self._asked.wait()
            self._asked.clear()
            while self._waiting:
                turn = [self._waiting.popleft() for _ in range(min(_AT_ONCE, len(self._waiting)))]
                self._compare(policy, turn)
                await asyncio.sleep(0)

    async def _found(self) -> Policy:
        while True:
            try:
                return await self._find()
            except Exception as error:
                # Nobody is to hear of it but the log; and the registry not with every query.
                self._failed += len(self._waiting)
                self._waiting.clear()
                self._warn(error)
                await asyncio.sleep(_PAUSE_S)

    def _compare(self, policy: Policy, turn: list[tuple[DecisionQuery, Decision]]) -> None:
        admitted = []
        for query, decision in turn:
            try:
                admit(policy, query)
            except LeylineError as error:
                self._failed += 1
                self._warn(error)
            else:
                admitted.append((query, decision))
        if not admitted:
            return
        shadows = answers(policy, [query for query, _ in admitted])
        for (query, decision), shadow in zip(admitted, shadows, strict=True):
            if isinstance(shadow, Decision):
                self._say(query, decision, shadow)
            else:
                self._failed += 1
                self._warn(shadow)

    def _say(self, query: DecisionQuery, decision: Decision, shadow: Decision) -> None:
        step = query.snapshot.step_id
        agrees = (shadow.action_type, shadow.slot_id) == (decision.action_type, decision.slot_id)
        self._metrics.compared(agrees=agrees)
        _log.info(
            "shadow decision",
            run_id=step.run_id,
            episode=step.episode_index,
            step=step.step,
            agrees=agrees,
            skipped=self._skipped,
            failed=self._failed,
            **_facts("served", decision),
            **_facts("shadow", shadow),
        )
        self._skipped = self._failed = 0

    def _warn(self, error: Exception) -> None:
        reason = error.code.name if isinstance(error, LeylineError) else type(error).__name__
        now = asyncio.get_running_loop().time()
        if now - self._said_at.get(reason, -math.inf) >= _REPEAT_S:
            self._said_at[reason] = now
            _log.warning("shadow failed", reason=reason, problem=str(error))


def _facts(whose: str, decision: Decision) -> dict[str, object]:
    action = ActionType.Name(decision.action_type).removeprefix("ACTION_TYPE_")
    facts: dict[str, object] = {"version": decision.policy_version, "action": action}
    for name in ("slot_id", "log_prob", "value"):
        if decision.HasField(name):
            facts[name] = getattr(decision, name)
    return {f"{whose}_{name}": fact for name, fact in facts.items()}
