"""Who decides when neighbours come and go: over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.kasmina.neighbours import (
    VERSION,
    Experience,
    Policy,
    answer,
    coin,
    not_ready,
    refusal,
    serving,
    step_id,
    until,
)

from chassis.channel import ChannelSettings
from chassis.errors import ErrorCode, LeylineError
from kasmina.runs.background_loop import BackgroundLoop
from kasmina.runs.decider import EpisodeTerms
from kasmina.runs.disk import Disk
from kasmina.runs.journal import Journal
from kasmina.runs.remote_decider import Neighbours, RemoteDecider
from kasmina.runs.run_control import RunCancelled, RunControl, RunFailed
from leyline.observation import EXTENDED_SPEC, SEED_SPEC
from leyline.v1.decision_pb2 import (
    ACTION_TYPE_WAIT,
    SELECTION_MODE_GREEDY,
    SELECTION_MODE_SAMPLED,
    DecisionQuery,
    SelectionMode,
)
from leyline.v1.episode_pb2 import EpisodeOrigin, Seeds
from leyline.v1.policy_pb2 import SlotRequirement
from leyline.v1.snapshot_pb2 import STAGE_DORMANT, MultiSlotSnapshot, SlotReading
from leyline.v1.trainer_pb2 import RUN_STATE_PAUSED, RUN_STATE_RUNNING, RunSpec
from leyline.v1.transition_pb2 import DECIDER_FALLBACK, DECIDER_POLICY

ORIGIN = EpisodeOrigin(seeds=Seeds(order=5))


def terms(spec_fingerprint: str = SEED_SPEC.fingerprint, pin: str | None = None) -> EpisodeTerms:
    """An episode of two slots."""
    return EpisodeTerms("run", 0, 5, 2, spec_fingerprint, pin, ORIGIN)


def query(step: int = 1, pin: str | None = None) -> DecisionQuery:
    """A question about a step."""
    return DecisionQuery(
        snapshot=MultiSlotSnapshot(
            step_id=step_id("run", 0, step),
            slots=[SlotReading(slot_id="slot-0", stage=STAGE_DORMANT)],
        ),
        spec_fingerprint=SEED_SPEC.fingerprint,
        sampling_seed=step,
        mode=SELECTION_MODE_SAMPLED,
        policy_version=pin,
    )


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A journal with a run that a worker has."""
    journal = Journal(tmp_path / "journal.sqlite3")
    journal.runs.create("run", RunSpec(), RunSpec(), queue_limit=1)
    journal.runs.take("run")
    yield journal
    journal.close()


@asynccontextmanager
async def decider(
    journal: Journal,
    tmp_path: Path,
    policy: str,
    experience: str,
    *,
    deterministic: bool = False,
    timeout_s: float = 20.0,
    mode: SelectionMode.ValueType = SELECTION_MODE_SAMPLED,
) -> AsyncIterator[RemoteDecider]:
    """A decider with neighbours at two addresses. Its calls block: make them in a thread."""
    neighbours = Neighbours(
        policy=ChannelSettings(policy),
        experience=ChannelSettings(experience),
        decision_timeout_s=timeout_s,
        policy_grace_s=0.0,
        experience_timeout_s=20.0,
        mode=mode,
        deterministic=deterministic,
    )
    control = RunControl(
        "run", journal, Disk(tmp_path, tmp_path / "reserve", 0), lambda reason: None
    )
    with BackgroundLoop() as loop:
        decider = RemoteDecider(neighbours, loop, control)
        yield decider
        await asyncio.to_thread(decider.end)


@pytest.fixture
async def nobody() -> str:
    """An address where nobody answers."""
    async with serving(Policy()) as address:
        return address


def states(journal: Journal) -> list[int]:
    """The run's states since the worker took it."""
    return [event.state_changed.state for event in journal.events.after("run", 2)]


async def test_an_episode_is_pinned_to_the_version_that_the_experience_service_gives(
    journal: Journal, tmp_path: Path
) -> None:
    experience = Experience(pin="mlp-abc")
    async with (
        serving(Policy(), experience) as address,
        decider(journal, tmp_path, address, address) as remote,
    ):
        beginning = await asyncio.to_thread(remote.begin, terms())
        resumed = await asyncio.to_thread(remote.begin, terms(pin="mlp-earlier"))
    assert beginning.policy == "coin"
    assert beginning.policy_version == "mlp-abc"
    assert (beginning.fence, resumed.fence) == (1, 2)
    assert resumed.policy_version == "mlp-earlier", "an episode keeps the pin that it has"
    introduction = experience.introductions[0]
    assert (introduction.horizon, introduction.slots) == (5, 2)
    assert introduction.follows_registry
    assert introduction.origin == ORIGIN


@pytest.mark.parametrize("follows_registry", [True, False])
async def test_an_episode_is_offered_for_evaluations_of_the_registry_alone(
    journal: Journal, tmp_path: Path, follows_registry: bool
) -> None:
    experience, policy = Experience(pin="mlp-abc", evaluation_pair=0), Policy()
    policy.info.follows_registry = follows_registry
    offer = replace(terms(), offers_evaluation=True)
    async with (
        serving(policy, experience) as address,
        decider(journal, tmp_path, address, address) as remote,
    ):
        offered = await asyncio.to_thread(remote.begin, offer)
        ordinary = await asyncio.to_thread(remote.begin, terms())
    offers = [introduction.offers_evaluation for introduction in experience.introductions]
    assert offers == [follows_registry, False]
    assert offered.evaluation_pair == (0 if follows_registry else None)
    assert (offered.mode == SELECTION_MODE_GREEDY) is follows_registry
    assert (ordinary.evaluation_pair, ordinary.mode) == (None, SELECTION_MODE_SAMPLED)


async def test_without_the_experience_service_an_episode_begins_unpinned(
    journal: Journal, tmp_path: Path, nobody: str
) -> None:
    async with (
        serving(Policy()) as address,
        decider(journal, tmp_path, address, nobody, mode=SELECTION_MODE_GREEDY) as remote,
    ):
        beginning = await asyncio.to_thread(remote.begin, terms())
        decided = (await asyncio.to_thread(remote.decide, query())).decided
    assert (beginning.policy_version, beginning.fence) == (None, None)
    assert beginning.mode == SELECTION_MODE_GREEDY
    assert decided.decision.policy_version == VERSION


async def test_without_the_policy_an_episode_begins_and_waits_in_its_place(
    journal: Journal, tmp_path: Path, nobody: str
) -> None:
    async with decider(journal, tmp_path, nobody, nobody) as remote:
        beginning = await asyncio.to_thread(remote.begin, terms())
        decided = (await asyncio.to_thread(remote.decide, query())).decided
    assert beginning.policy == ""
    assert decided.decider == DECIDER_FALLBACK
    assert decided.decision.action_type == ACTION_TYPE_WAIT
    assert not decided.decision.HasField("policy_version")
    assert not decided.decision.HasField("log_prob")
    assert decided.fallback_reason is not None
    assert "UNAVAILABLE" in decided.fallback_reason


async def test_a_decision_that_comes_too_late_is_a_fallback_and_the_next_is_not(
    journal: Journal, tmp_path: Path
) -> None:
    policy = Policy(decide=lambda asked: None)
    async with (
        serving(policy) as address,
        decider(journal, tmp_path, address, address, timeout_s=0.2) as remote,
    ):
        late = (await asyncio.to_thread(remote.decide, query(1))).decided
        policy.decide = lambda asked: answer(asked, coin(asked))
        answers = [await asyncio.to_thread(remote.decide, query(2)) for _ in range(20)]
    assert late.decider == DECIDER_FALLBACK
    assert "no answer within 0.2 s" in (late.fallback_reason or "")
    assert DECIDER_POLICY in {each.decided.decider for each in answers}


async def test_a_policy_for_another_observation_cannot_decide(
    journal: Journal, tmp_path: Path
) -> None:
    policy = Policy()
    policy.info.follows_registry = False
    async with (
        serving(policy, Experience()) as address,
        decider(journal, tmp_path, address, address) as remote,
    ):
        beginning = await asyncio.to_thread(remote.begin, terms(EXTENDED_SPEC.fingerprint))
    assert beginning.refusal is not None
    assert "FINGERPRINT_MISMATCH: policy 'coin' wants observations by spec 'seed'" in (
        beginning.refusal
    )


def for_three_slots() -> Policy:
    """A policy that follows the registry, whose active version is not for episodes of two slots."""
    policy = Policy()
    policy.info.slots.CopyFrom(SlotRequirement(exactly=3))
    return policy


async def test_where_nothing_in_the_registry_decides_nobody_can(
    journal: Journal, tmp_path: Path
) -> None:
    async with (
        serving(for_three_slots(), Experience()) as address,
        decider(journal, tmp_path, address, address) as remote,
    ):
        beginning = await asyncio.to_thread(remote.begin, terms())
    assert beginning.fence == 1
    assert beginning.refusal is not None
    assert "SLOT_COUNT_MISMATCH: policy 'coin' decides for 3 slots, the run has 2" in (
        beginning.refusal
    )
    assert "activate one of the registry that does" in beginning.refusal


@pytest.mark.parametrize("earlier", [None, "mlp-earlier"])
async def test_a_pinned_version_decides_whatever_the_active_one_is_for(
    journal: Journal, tmp_path: Path, earlier: str | None
) -> None:
    async with (
        serving(for_three_slots(), Experience(pin="mlp-abc")) as address,
        decider(journal, tmp_path, address, address) as remote,
    ):
        beginning = await asyncio.to_thread(remote.begin, terms(pin=earlier))
        asked = query(pin=beginning.policy_version)
        decided = (await asyncio.to_thread(remote.decide, asked)).decided
    assert beginning.refusal is None
    assert beginning.policy_version == (earlier or "mlp-abc")
    assert decided.decision.policy_version == beginning.policy_version


async def test_without_the_experience_service_it_is_said_that_it_may_know_a_version(
    journal: Journal, tmp_path: Path, nobody: str
) -> None:
    async with (
        serving(for_three_slots()) as address,
        decider(journal, tmp_path, address, nobody) as remote,
    ):
        beginning = await asyncio.to_thread(remote.begin, terms())
    assert beginning.fence is None
    assert f"unless the experience service, which is away at {nobody}" in (beginning.refusal or "")


async def test_a_policy_that_refuses_the_question_fails_the_run(
    journal: Journal, tmp_path: Path
) -> None:
    error = LeylineError(ErrorCode.FINGERPRINT_MISMATCH, given="a", expected="b")
    policy = Policy(decide=lambda asked: refusal(asked, error))
    async with (
        serving(policy) as address,
        decider(journal, tmp_path, address, address) as remote,
    ):
        with pytest.raises(RunFailed, match="FINGERPRINT_MISMATCH"):
            await asyncio.to_thread(remote.decide, query())


async def test_a_deterministic_run_waits_for_both_neighbours_and_says_so(
    journal: Journal, tmp_path: Path
) -> None:
    async with serving(Policy()) as policy_address, serving(Experience()) as experience_address:
        pass
    async with decider(
        journal, tmp_path, policy_address, experience_address, deterministic=True
    ) as remote:
        begun = asyncio.create_task(asyncio.to_thread(remote.begin, terms()))
        await until(lambda: states(journal) == [RUN_STATE_PAUSED])
        async with serving(Policy(), address=policy_address):
            await until(lambda: len(states(journal)) == 3)
            async with serving(Experience(pin="v7"), address=experience_address):
                assert (await begun).policy_version == "v7"
    assert states(journal) == [RUN_STATE_PAUSED, RUN_STATE_RUNNING] * 2
    messages = [event.state_changed.message for event in journal.events.after("run", 2)]
    assert messages[0].startswith(f"waiting for the policy at {policy_address}")
    assert messages[2].startswith(f"waiting for the experience service at {experience_address}")


async def test_a_deterministic_run_waits_for_a_service_that_does_not_know_it_yet(
    journal: Journal, tmp_path: Path
) -> None:
    stranger = LeylineError(ErrorCode.UNAUTHENTICATED, problem="it knows no such token")
    experience = Experience(pin="v7", refuse=lambda request: stranger)
    async with (
        serving(Policy(), experience) as address,
        decider(journal, tmp_path, address, address, deterministic=True) as remote,
    ):
        begun = asyncio.create_task(asyncio.to_thread(remote.begin, terms()))
        await until(lambda: begun.done() or len(experience.introductions) >= 2)
        experience.refuse = lambda request: None
        assert (await begun).policy_version == "v7"


async def test_a_deterministic_run_asks_until_the_policy_answers(
    journal: Journal, tmp_path: Path
) -> None:
    policy = Policy(decide=lambda asked: None)
    async with (
        serving(policy) as address,
        decider(journal, tmp_path, address, address, deterministic=True, timeout_s=0.2) as remote,
    ):
        asking = asyncio.create_task(asyncio.to_thread(remote.decide, query()))
        await until(lambda: states(journal) == [RUN_STATE_PAUSED])
        policy.decide = lambda asked: answer(asked, coin(asked))
        decided = (await asking).decided
    assert decided.decider == DECIDER_POLICY
    assert states(journal) == [RUN_STATE_PAUSED, RUN_STATE_RUNNING]


@pytest.mark.parametrize("deterministic", [False, True])
async def test_any_run_waits_for_a_version_that_is_yet_to_be_learned(
    journal: Journal, tmp_path: Path, deterministic: bool
) -> None:
    experience = Experience(pin="v7", refuse=not_ready)
    async with (
        serving(Policy(), experience) as address,
        decider(journal, tmp_path, address, address, deterministic=deterministic) as remote,
    ):
        begun = asyncio.create_task(asyncio.to_thread(remote.begin, terms()))
        await until(lambda: len(experience.introductions) == 3)
        experience.refuse = lambda request: None
        assert (await begun).policy_version == "v7"
    paused, _ = journal.events.after("run", 2)
    assert states(journal) == [RUN_STATE_PAUSED, RUN_STATE_RUNNING]
    assert paused.state_changed.message == (
        f"waiting for the learner at {address}: VERSION_NOT_READY: episode 0 of run 'run' is to be"
        " decided by the version after update 7, which is not there yet"
    )


async def test_a_run_that_waits_for_the_learner_does_not_mind_a_restart(
    journal: Journal, tmp_path: Path
) -> None:
    experience = Experience(pin="v7", refuse=not_ready)
    async with serving(experience) as simic:
        pass
    async with (
        serving(Policy()) as policy,
        decider(journal, tmp_path, policy, simic) as remote,
    ):
        async with serving(experience, address=simic):
            begun = asyncio.create_task(asyncio.to_thread(remote.begin, terms()))
            await until(lambda: len(experience.introductions) == 1)
        await asyncio.sleep(0.6)
        experience.refuse = lambda request: None
        async with serving(experience, address=simic):
            assert (await begun).policy_version == "v7"


async def test_a_run_that_waits_for_the_learner_can_be_cancelled(
    journal: Journal, tmp_path: Path
) -> None:
    async with (
        serving(Policy(), Experience(refuse=not_ready)) as address,
        decider(journal, tmp_path, address, address) as remote,
    ):
        beginning = asyncio.create_task(asyncio.to_thread(remote.begin, terms()))
        await until(lambda: states(journal) == [RUN_STATE_PAUSED])
        journal.runs.request_cancel("run", "no patience")
        with pytest.raises(RunCancelled, match="no patience"):
            await beginning


async def test_a_deterministic_run_that_waits_can_be_cancelled(
    journal: Journal, tmp_path: Path, nobody: str
) -> None:
    async with decider(journal, tmp_path, nobody, nobody, deterministic=True) as remote:
        asking = asyncio.create_task(asyncio.to_thread(remote.decide, query()))
        await until(lambda: states(journal) == [RUN_STATE_PAUSED])
        journal.runs.request_cancel("run", "no patience")
        with pytest.raises(RunCancelled, match="no patience"):
            await asking
