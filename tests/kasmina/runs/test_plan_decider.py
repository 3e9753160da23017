"""Plans: decided beforehand, and asked of nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.kasmina.neighbours import Experience, Policy, serving, step_id, until
from tests.kasmina.running import kasmina, small_spec

from chassis.channel import ChannelSettings
from chassis.validation import violations
from kasmina.runs.background_loop import BackgroundLoop
from kasmina.runs.decider import EpisodeTerms
from kasmina.runs.introducer import Introducer
from kasmina.runs.plan_decider import PlanDecider
from leyline.observation import SEED_SPEC
from leyline.v1.decision_pb2 import (
    ACTION_TYPE_ADVANCE,
    ACTION_TYPE_GERMINATE,
    ACTION_TYPE_WAIT,
    SELECTION_MODE_GREEDY,
    DecisionQuery,
)
from leyline.v1.episode_pb2 import EpisodeOrigin, Seeds
from leyline.v1.snapshot_pb2 import MultiSlotSnapshot
from leyline.v1.trainer_pb2 import RUN_STATE_COMPLETED, Plan, PlannedAction
from leyline.v1.transition_pb2 import DECIDER_PLAN

GROWING = Plan(
    actions=[
        PlannedAction(step=3, action_type=ACTION_TYPE_ADVANCE, slot_id="slot-2"),
        PlannedAction(step=1, action_type=ACTION_TYPE_GERMINATE, slot_id="slot-2"),
        PlannedAction(step=2, action_type=ACTION_TYPE_WAIT),
    ]
)
ORIGIN = EpisodeOrigin(seeds=Seeds(order=5))
TERMS = EpisodeTerms("run", 0, 5, 3, SEED_SPEC.fingerprint, None, ORIGIN)


@asynccontextmanager
async def decider(experience: str) -> AsyncIterator[PlanDecider]:
    """A plan, with an experience service at an address. Its calls block: make them in a thread."""
    with BackgroundLoop() as loop:
        yield PlanDecider(GROWING, Introducer(ChannelSettings(experience), 20.0, loop))


async def test_a_plan_is_followed_step_by_step_and_otherwise_it_waits() -> None:
    async with decider("127.0.0.1:1") as plan:
        decided = [
            plan.decide(DecisionQuery(snapshot=MultiSlotSnapshot(step_id=step_id("run", 0, step))))
            for step in range(5)
        ]
    decisions = [answer.decided.decision for answer in decided]
    assert [violations(decision) for decision in decisions] == [()] * 5
    assert [(d.action_type, d.slot_id) for d in decisions] == [
        (ACTION_TYPE_WAIT, ""),
        (ACTION_TYPE_GERMINATE, "slot-2"),
        (ACTION_TYPE_WAIT, ""),
        (ACTION_TYPE_ADVANCE, "slot-2"),
        (ACTION_TYPE_WAIT, ""),
    ]
    assert {answer.decided.decider for answer in decided} == {DECIDER_PLAN}
    assert len({decision.decision_id for decision in decisions}) == 5


async def test_a_planned_episode_is_introduced_under_the_name_plan() -> None:
    experience = Experience(pin="never-asked-for")
    async with serving(experience) as address, decider(address) as plan:
        beginning = await asyncio.to_thread(plan.begin, TERMS)
    (introduction,) = experience.introductions
    assert (introduction.policy, introduction.follows_registry) == ("plan", False)
    assert introduction.mode == SELECTION_MODE_GREEDY
    assert introduction.origin == ORIGIN
    assert (beginning.policy, beginning.policy_version, beginning.fence) == ("plan", None, 1)


async def test_an_experience_service_that_is_away_does_not_stop_a_plan() -> None:
    async with serving(Experience()) as address:
        pass
    async with decider(address) as plan:
        beginning = await asyncio.to_thread(plan.begin, TERMS)
    assert beginning.fence is None


async def test_a_run_with_a_plan_asks_no_policy_and_is_recorded_like_any_other(
    tmp_path: Path,
) -> None:
    experience, policy = Experience(), Policy()
    spec = small_spec(horizon=5)
    spec.policy.plan.CopyFrom(GROWING)
    async with (
        serving(experience, policy) as address,
        kasmina(tmp_path, address, address) as service,
    ):
        await service.start_run("planned", spec)
        await service.finish("planned")
        run = await service.run("planned")
        await until(lambda: bool(experience.ends))
    assert run.state == RUN_STATE_COMPLETED
    assert not policy.asked
    transitions = experience.episode("planned", 0)
    assert [violations(transition) for transition in transitions] == [()] * 5
    assert {transition.decider for transition in transitions} == {DECIDER_PLAN}
    assert transitions[1].execution.blueprint == "conv3x3"
    assert run.compute.threads >= 1
    assert run.compute.torch_version
