"""Whoever decides an episode by herself gets each snapshot once, over breaks of connection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from tests.leyline.serving import trainer_of

from leyline.client import DrivenEpisode, patience
from leyline.error import ServiceError
from leyline.v1.decision_pb2 import (
    ACTION_TYPE_GERMINATE,
    ACTION_TYPE_WAIT,
    SELECTION_MODE_SAMPLED,
    Decision,
)
from leyline.v1.snapshot_pb2 import MultiSlotSnapshot, StepId
from leyline.v1.trainer_pb2 import (
    DriveEpisodeRequest,
    DriveEpisodeResponse,
    DriveEpisodeStart,
    RunSpec,
)
from leyline.v1.trainer_pb2_grpc import TrainerServiceServicer
from leyline.v1.transition_pb2 import TERMINATION_HORIZON, EpisodeEnd, Transition

HORIZON = 4


class Road(TrainerServiceServicer):
    """An episode of four steps. Its state outlives its streams, as a trainer's does.

    Attributes:
        breaks: at these steps, once each, the stream ends: before or after the decision is taken.
    """

    def __init__(self, breaks: dict[int, str] | None = None) -> None:
        self.decisions: list[Decision] = []
        self.starts: list[DriveEpisodeStart] = []
        self.breaks = breaks or {}
        self.refused = 0

    async def DriveEpisode(
        self, requests: AsyncIterator[DriveEpisodeRequest], context: Any
    ) -> AsyncIterator[DriveEpisodeResponse]:
        self.starts.append((await anext(requests)).start)
        if self.decisions:
            yield DriveEpisodeResponse(transition=self._transition())
        while (step := len(self.decisions)) < HORIZON:
            yield DriveEpisodeResponse(snapshot=MultiSlotSnapshot(step_id=self._step(step)))
            decision = (await anext(requests)).decision
            if decision.slot_id == "nowhere":
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no such slot")
            where = self.breaks.pop(step, "")
            if where != "before":
                self.decisions.append(decision)
            if where:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
            yield DriveEpisodeResponse(transition=self._transition())
        yield DriveEpisodeResponse(end=EpisodeEnd(termination=TERMINATION_HORIZON))

    def _step(self, step: int) -> StepId:
        return StepId(run_id=self.starts[0].run_id, episode_index=0, step=step)

    def _transition(self) -> Transition:
        return Transition(step_id=self._step(len(self.decisions) - 1), decision=self.decisions[-1])


def road(breaks: dict[int, str] | None = None) -> Road:
    return Road(breaks)  # the other calls are not served


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_WAIT_S", 0.01)


async def drive_to_the_end(episode: DrivenEpisode) -> list[int]:
    seen = []
    async for snapshot in episode:
        seen.append(snapshot.step_id.step)
        episode.decide(ACTION_TYPE_GERMINATE, "slot-1")
    return seen


async def test_each_snapshot_comes_once_and_what_it_led_to_with_the_next() -> None:
    servicer = road()
    async with trainer_of(servicer) as trainer:
        async with trainer.drive(RunSpec(title="mine"), "by-hand") as episode:
            led_to = []
            async for _ in episode:
                led_to.append(episode.transition and episode.transition.step_id.step)
                episode.decide(ACTION_TYPE_WAIT)
        assert episode.end is not None
        assert episode.end.termination == TERMINATION_HORIZON
    assert led_to == [None, 0, 1, 2]
    assert episode.transition is not None
    assert episode.transition.step_id.step == 3
    assert [d.decision_id for d in servicer.decisions] == [f"caller-0-{n}" for n in range(4)]
    assert (servicer.starts[0].run_id, servicer.starts[0].spec.title) == ("by-hand", "mine")
    assert len(servicer.starts) == 1


@pytest.mark.parametrize("where", ["before", "after"])
async def test_a_decision_on_its_way_when_the_connection_broke_is_taken_once(where: str) -> None:
    servicer, breaks = road({0: where, 2: where, 3: where}), []
    async with (
        trainer_of(servicer, lambda error, _: breaks.append(error.code)) as trainer,
        trainer.drive(RunSpec()) as episode,
    ):
        assert await drive_to_the_end(episode) == [0, 1, 2, 3]
    assert [d.decision_id for d in servicer.decisions] == [f"caller-0-{n}" for n in range(4)]
    assert breaks == ["UNAVAILABLE"] * 3
    assert len({start.run_id for start in servicer.starts}) == 1
    assert servicer.starts[0].run_id.startswith("drive-")


async def test_a_decision_that_is_refused_leaves_the_snapshot_to_another_one() -> None:
    servicer = road()
    async with trainer_of(servicer) as trainer, trainer.drive(RunSpec()) as episode:
        assert (await anext(episode)).step_id.step == 0
        episode.decide(ACTION_TYPE_GERMINATE, "nowhere")
        with pytest.raises(ServiceError, match="no such slot"):
            await anext(episode)
        assert await drive_to_the_end(episode) == [0, 1, 2, 3]


async def test_a_decision_that_breaks_a_rule_is_refused_before_it_is_sent() -> None:
    async with trainer_of(road()) as trainer, trainer.drive(RunSpec()) as episode:
        with pytest.raises(ValueError, match="iterate first"):
            episode.decide(ACTION_TYPE_WAIT)
        await anext(episode)
        with pytest.raises(ValueError, match=r"waits for decide\(\)"):
            await anext(episode)
        with pytest.raises(ValueError, match="slot_id must be unset on WAIT"):
            episode.decide(ACTION_TYPE_WAIT, "slot-0")
        decision = Decision(
            decision_id="mine",
            action_type=ACTION_TYPE_WAIT,
            mode=SELECTION_MODE_SAMPLED,
            type_log_prob=-0.7,
            log_prob=-0.7,
        )
        episode.answer(decision)
        await anext(episode)
        assert episode.transition is not None
        assert episode.transition.decision == decision
