"""Decisions by a caller of DriveEpisode, whom the worker reaches by way of its service."""

from __future__ import annotations

import time
from base64 import b64decode, b64encode
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from kasmina.runs.decider import Answer, EpisodeTerms
from kasmina.runs.episode_log import Beginning, Decided
from kasmina.runs.introducer import Introducer
from kasmina.runs.run_control import RunAbandoned, RunControl
from leyline.v1.decision_pb2 import SELECTION_MODE_SAMPLED, Decision, DecisionQuery
from leyline.v1.snapshot_pb2 import StepId
from leyline.v1.transition_pb2 import DECIDER_CALLER

POLICY = "caller"
"""Name under which the experience service keeps the episodes."""

_POLL_S = 0.2
# A caller of episode after episode is away for a moment between any two.
_PAUSE_AFTER_S = 1.0

Message = dict[str, Any]


class CallerDecider:
    """Whoever drives the run, as a decider."""

    def __init__(
        self,
        report: Callable[[Message], None],
        inbox: SimpleQueue[Message],
        introducer: Introducer,
        control: RunControl,
        patience_s: float,
    ) -> None:
        """Makes it.

        Args:
            report: tells the service.
            inbox: what the service says.
            introducer: begins episodes at the experience service.
            control: of the run.
            patience_s: how long it waits while nobody drives.
        """
        self._report = report
        self._inbox = inbox
        self._introducer = introducer
        self._control = control
        self._patience_s = patience_s
        self._attended = False

    def begin(self, terms: EpisodeTerms) -> Beginning:
        """Begins the episode, with or without the experience service."""
        return self._introducer.begin(terms, POLICY, SELECTION_MODE_SAMPLED)

    def decide(self, query: DecisionQuery) -> Answer:
        """The caller's decision, whenever it comes.

        Raises:
            RunAbandoned: nobody has driven for too long.
            RunCancelled: somebody asked for the end.
        """
        snapshot = query.snapshot
        asked_at = left_at = time.monotonic()
        self._report({"waits": b64encode(snapshot.SerializeToString()).decode()})
        while True:
            decision = self._hear(snapshot.step_id)
            now = time.monotonic()
            if decision is not None:
                self._control.go_on()
                return Answer(Decided(decision, DECIDER_CALLER, None), now - asked_at)
            if self._attended:
                left_at = now
                self._control.go_on()
            self._wait_alone(now - left_at)

    def end(self) -> None:
        """Says that there is news of the episode."""
        self._report({"over": True})

    def _hear(self, step_id: StepId) -> Decision | None:
        """A decision for the step, or None where something else was said, or nothing for a while.

        A decision that an earlier snapshot of the step had is as good: it is the same snapshot.
        """
        try:
            message = self._inbox.get(timeout=_POLL_S)
        except Empty:
            return None
        if "attended" in message:
            self._attended = message["attended"]
        elif StepId.FromString(b64decode(message["step_id"])) == step_id:
            return Decision.FromString(b64decode(message["decision"]))
        return None

    def _wait_alone(self, alone_s: float) -> None:
        if alone_s >= self._patience_s:
            raise RunAbandoned(f"nobody has driven the run for {self._patience_s:g} s")
        if alone_s >= _PAUSE_AFTER_S:
            self._control.pause("waiting for its caller")
        else:
            self._control.check_cancelled()
