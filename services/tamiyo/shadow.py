"""A shadow: a second policy that is asked what the served one was asked, and only logged."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from chassis.errors import LeylineError
from chassis.logging import get_logger
from leyline.v1.decision_pb2 import ActionType, Decision, DecisionQuery
from tamiyo.batch import DecisionBatcher
from tamiyo.policy import Policy, admit

_log = get_logger(__name__)

MOST_WAITING = 64
"""Questions that wait for the shadow at once; under load it is asked fewer, and nobody waits."""

ABSENCE_S = 1.0
"""How long a shadow that is not to be had is left alone."""


class Shadow:
    """Asks the shadow after the answer is there, and never lets it do harm.

    It draws with the random numbers of the query, as the served policy did: two policies that agree
    about an action's probability draw the same action.
    """

    def __init__(self, policy: Callable[[], Awaitable[Policy]], batcher: DecisionBatcher) -> None:
        """Make it.

        Args:
            policy: gives the policy for a question; may raise where there is none yet.
            batcher: of the served policy. In one queue the two never run at the same time.
        """
        self._policy = policy
        self._batcher = batcher
        self._asking: set[asyncio.Task[None]] = set()
        self._skipped = 0
        self._absent_until = 0.0
        self._last_failure = ""

    def ask(self, query: DecisionQuery, decision: Decision) -> None:
        """Ask about a query that was answered with a decision; returns at once."""
        now = asyncio.get_running_loop().time()
        if len(self._asking) >= MOST_WAITING or now < self._absent_until:
            self._skipped += 1
            return
        task = asyncio.create_task(self._compare(query, decision))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    def close(self) -> None:
        """Ask nothing more."""
        for task in self._asking:
            task.cancel()

    async def _compare(self, query: DecisionQuery, decision: Decision) -> None:
        # Whatever a shadow raises must not reach anybody.
        try:
            policy = await self._policy()
        except Exception as error:
            # The registry is not to be asked for it with every query.
            self._absent_until = asyncio.get_running_loop().time() + ABSENCE_S
            self._warn(error)
            return
        try:
            admit(policy, query)
            shadow = await self._batcher.decide(policy, query)
        except Exception as error:
            self._warn(error)
            return
        self._last_failure = ""
        skipped, self._skipped = self._skipped, 0
        step = query.snapshot.step_id
        _log.info(
            "shadow decision",
            run_id=step.run_id,
            episode=step.episode_index,
            step=step.step,
            agrees=(shadow.action_type, shadow.slot_id) == (decision.action_type, decision.slot_id),
            skipped=skipped,
            **_facts("served", decision),
            **_facts("shadow", shadow),
        )

    def _warn(self, error: Exception) -> None:
        """Say it once, not for every query."""
        failure = str(error)
        if failure != self._last_failure:
            reason = error.code.name if isinstance(error, LeylineError) else "INTERNAL"
            _log.warning("shadow failed", reason=reason, problem=failure)
        self._last_failure = failure


def _facts(whose: str, decision: Decision) -> dict[str, object]:
    action = ActionType.Name(decision.action_type).removeprefix("ACTION_TYPE_")
    facts: dict[str, object] = {"version": decision.policy_version, "action": action}
    for name in ("slot_id", "log_prob", "value"):
        if decision.HasField(name):
            facts[name] = getattr(decision, name)
    return {f"{whose}_{name}": fact for name, fact in facts.items()}
