"""One stream of a caller who decides: snapshots and transitions out, decisions in.

What is told comes from the journal, so that it is the same after a break, a crash of the worker, or
another service over the same folder. A stream that resumes gets the newest transition once more,
because the caller may not have seen it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from chassis.errors import ErrorCode, LeylineError, Violation
from kasmina.runs.driven_run import DrivenRun
from kasmina.runs.episode_log import EpisodeRecord
from kasmina.runs.journal import Journal
from kasmina.runs.run_log import RunRecord
from kasmina.runs.run_spec import fingerprint_of
from leyline.v1.decision_pb2 import Decision
from leyline.v1.snapshot_pb2 import MultiSlotSnapshot, StepId
from leyline.v1.trainer_pb2 import DriveEpisodeRequest, DriveEpisodeResponse, RunState
from leyline.v1.transition_pb2 import TERMINATION_HORIZON, Transition

_OUT_OF_ORDER = Violation(
    "start", "must be the first message; every later one is the decision for the last snapshot"
)


class DrivenEpisode:
    """An episode as it is told to the caller who drives it."""

    def __init__(
        self, journal: Journal, record: RunRecord, run: DrivenRun, episode_index: int
    ) -> None:
        self._journal = journal
        self._spec = record.spec
        self._run_id = record.run_id
        self._run = run
        self._index = episode_index
        self._told: int | None = None
        """Transitions told so far; None before the first look at the episode."""
        self._decided: tuple[int, Decision] | None = None

    async def play(
        self, requests: AsyncIterator[DriveEpisodeRequest]
    ) -> AsyncGenerator[DriveEpisodeResponse, None]:
        """The stream, to the episode's end or that of the requests.

        Raises LeylineError where the run ends before the episode began, or for a message that is
        not a decision.
        """
        while True:
            # Taken before looking: what changes while it looks is seen at the next look.
            news = self._run.news
            episode = await asyncio.to_thread(self._journal.episodes.get, self._run_id, self._index)
            if episode is None:
                await asyncio.to_thread(self._require_hope)
            else:
                async for response in self._progress(episode):
                    yield response
                if episode.termination:
                    return
                snapshot = self._undecided(episode)
                if snapshot is not None:
                    yield DriveEpisodeResponse(snapshot=snapshot)
                    decision = await _next_decision(requests)
                    if decision is None:
                        return
                    self._decided = snapshot.step_id.step, decision
                    self._run.decide(decision)
            await news.wait()

    async def _progress(self, episode: EpisodeRecord) -> AsyncIterator[DriveEpisodeResponse]:
        """What happened since the last look."""
        if self._told is None:
            self._told = max(episode.steps - 1, 0)
        while self._told < episode.steps:
            transition = await asyncio.to_thread(self._transition, self._told, episode)
            yield DriveEpisodeResponse(transition=transition)
            self._told += 1
        if episode.termination:
            end = await asyncio.to_thread(self._journal.events.end_of, self._run_id, self._index)
            yield DriveEpisodeResponse(end=end)

    def _undecided(self, episode: EpisodeRecord) -> MultiSlotSnapshot | None:
        """The snapshot that the caller is to decide on; a decision that the worker died with is
        handed to the next one.
        """
        waiting = self._run.waiting
        if waiting is None:
            return None
        step_id = waiting.step_id
        if (step_id.episode_index, step_id.step) != (self._index, episode.steps):
            return None
        if self._decided is not None and self._decided[0] == step_id.step:
            self._run.decide(self._decided[1])
            return None
        return waiting

    def _transition(self, step: int, episode: EpisodeRecord) -> Transition:
        """The same message as the experience service gets."""
        step_id = StepId(run_id=self._run_id, episode_index=self._index, step=step)
        decided, completed = self._journal.events.of_step(step_id)
        transition = Transition(
            step_id=step_id,
            snapshot=decided.snapshot,
            decision=decided.decision,
            decider=decided.decider,
            execution=decided.execution,
            next_snapshot=completed.next_snapshot,
            terminal=episode.termination == TERMINATION_HORIZON and step + 1 == episode.steps,
            facts=completed.facts,
            spec_fingerprint=fingerprint_of(self._spec),
        )
        transition.completed_at.FromNanoseconds(self._journal.episodes.completed_at(step_id))
        return transition

    def _require_hope(self) -> None:
        """Raises LeylineError where the run has ended, so that the episode will never begin."""
        run = self._journal.runs.get(self._run_id)
        if run is None:
            raise LeylineError(ErrorCode.RUN_NOT_FOUND, run_id=self._run_id)
        if run.has_ended:
            raise LeylineError(
                ErrorCode.EPISODE_ENDED,
                run_id=self._run_id,
                episode_index=self._index,
                termination=RunState.Name(run.state).removeprefix("RUN_STATE_"),
                steps=0,
                why=run.status_message,
            )


async def _next_decision(requests: AsyncIterator[DriveEpisodeRequest]) -> Decision | None:
    """The caller's next message; None where none will come. Raises LeylineError."""
    try:
        request = await anext(requests)
    except StopAsyncIteration:
        return None
    if not request.HasField("decision"):
        raise LeylineError(ErrorCode.INVALID_ARGUMENT, violations=[_OUT_OF_ORDER])
    return request.decision
