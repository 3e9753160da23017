"""What is deleted as garbage, and what is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import grpc.aio
import pytest
from tests.simic.clock import Clock
from tests.simic.episodes import Script
from tests.simic.running import running
from tests.simic.versions import version

from chassis.errors import ErrorCode, LeylineError
from chassis.status import from_rpc_error
from leyline.v1.learner_pb2 import TrainingPlan, TrainingState
from leyline.v1.registry_pb2 import CollectGarbageRequest, PolicyManifest, PolicyReport
from simic.database.database import Database
from simic.experience.abandonment import Abandonment
from simic.experience.store import ExperienceStore
from simic.learning.lesson import LearnedVersion, Lessons
from simic.learning.training import TrainingStore
from simic.policies.registry import PolicyRegistry


def named(learned: LearnedVersion) -> str:
    return learned.manifest.policy_version


def register(registry: PolicyRegistry, *learned: LearnedVersion) -> list[str]:
    for each in learned:
        registry.register(each.manifest, each.artifact)
    return [named(each) for each in learned]


def collected(registry: PolicyRegistry, keep: int = 1) -> list[str]:
    return list(registry.collect_garbage(keep, dry_run=False).policy_versions)


def test_old_versions_that_were_never_of_use_go_and_a_dry_run_only_says_so(
    registry: PolicyRegistry,
) -> None:
    learned = [version(seed) for seed in range(5)]
    names = register(registry, *learned)
    answer = registry.collect_garbage(2, dry_run=True)
    assert list(answer.policy_versions) == names[:3]
    assert answer.freed_bytes == sum(len(each.artifact) for each in learned[:3])
    assert registry.read_artifact(names[0], 0).data
    assert registry.collect_garbage(2, dry_run=False) == answer
    assert registry.collect_garbage(2, dry_run=False).policy_versions == []


def test_twenty_versions_stay_where_nothing_else_is_asked_for(registry: PolicyRegistry) -> None:
    names = register(registry, *(version(seed) for seed in range(21)))
    assert collected(registry, keep=0) == names[:1]


def test_a_version_whose_artifact_is_gone_is_still_known(registry: PolicyRegistry) -> None:
    first, second = version(1), version(2, parent=named(version(1)))
    old, new = register(registry, first, second)
    assert collected(registry) == [old]
    assert registry.get(new).manifest.parent_version == old
    assert registry.get(old).manifest.artifact_sha256 == first.manifest.artifact_sha256
    assert [each.policy_version for each in registry.page(0, "").policies] == [new, old]
    calls: list[Callable[[], object]] = [
        lambda: registry.read_artifact(old, 0),
        lambda: registry.activate(old, ""),
    ]
    for call in calls:
        with pytest.raises(LeylineError) as caught:
            call()
        assert caught.value.code is ErrorCode.POLICY_VERSION_NOT_FOUND
        assert "deleted as garbage; register it again" in caught.value.violations[0].description


def test_a_version_that_is_registered_again_has_its_artifact_again(
    registry: PolicyRegistry,
) -> None:
    first, second = version(1), version(2)
    old, _ = register(registry, first, second)
    collected(registry)
    events = len(registry.events(0))
    assert registry.register(first.manifest, first.artifact).already_registered
    assert len(registry.events(0)) == events
    assert registry.read_artifact(old, 0).data == first.artifact[: 256 * 1024]
    registry.activate(old, "")


def test_the_active_version_and_the_one_to_roll_back_to_stay(registry: PolicyRegistry) -> None:
    names = register(registry, *(version(seed) for seed in range(5)))
    for name in names[:3]:
        registry.activate(name, "")
    assert collected(registry) == [names[0], names[3]]
    assert registry.roll_back("").policy_version == names[1]


def test_what_the_next_episodes_of_another_shape_are_pinned_to_stays(
    registry: PolicyRegistry, experience: ExperienceStore
) -> None:
    kinds = [version(1, slots=6), version(2, spec_name="extended"), version(3), version(4)]
    names = register(registry, *kinds)
    for name in names:
        registry.activate(name, "")
    registry.report(PolicyReport(policy_version=names[3], reason="GOLDEN_MISMATCH"))
    newest = register(registry, *(version(seed) for seed in range(5, 8)))
    assert collected(registry) == newest[:2]
    begin = Script().begin()
    begin.slots = 6
    assert experience.begin(begin).policy_version == names[0]


def test_what_an_open_episode_is_pinned_to_stays_until_its_end(
    registry: PolicyRegistry, experience: ExperienceStore
) -> None:
    names = register(registry, *(version(seed) for seed in range(4)))
    registry.activate(names[0], "")
    script = Script(version=names[0])
    experience.begin(script.begin())
    for name in names[1:]:
        registry.activate(name, "")
    assert collected(registry) == [names[1]]
    experience.record(script.items())
    assert collected(registry) == [names[0]]


def test_what_a_silent_episode_is_pinned_to_stays_because_its_trainer_may_come_back(
    registry: PolicyRegistry, experience: ExperienceStore, database: Database, clock: Clock
) -> None:
    names = register(registry, *(version(seed) for seed in range(4)))
    registry.activate(names[0], "")
    script = Script(version=names[0])
    experience.begin(script.begin())
    for name in names[1:]:
        registry.activate(name, "")
    clock.pass_days(2)
    assert Abandonment(database, after_s=86_400).look() == 1
    assert collected(registry) == [names[1]]
    again = experience.begin(script.begin())
    assert again.policy_version == names[0]
    experience.record(script.items(fence=again.fence))
    assert collected(registry) == [names[0]]


def test_what_the_run_of_an_ended_deterministic_training_goes_on_with_stays(
    registry: PolicyRegistry,
    trainings: TrainingStore,
    experience: ExperienceStore,
    database: Database,
) -> None:
    trainings.start("t", TrainingPlan(deterministic=True, run_id="run"))
    Lessons(database, "t").begin(version(1))
    trainings.end("t", TrainingState.TRAINING_STATE_STOPPED, "")
    names = register(registry, *(version(seed) for seed in range(2, 6)))
    for name in names[:2]:
        registry.activate(name, "")
    assert collected(registry) == [names[2]]
    assert experience.begin(Script().begin()).policy_version == named(version(1))


def test_what_a_training_goes_on_from_stays_until_it_ends(
    registry: PolicyRegistry, trainings: TrainingStore, database: Database
) -> None:
    trainings.start("t", TrainingPlan())
    Lessons(database, "t").begin(version(1))
    others = [version(seed) for seed in range(2, 6)]
    names = register(registry, *others)
    for name in names[:2]:
        registry.activate(name, "")
    assert collected(registry) == [names[2]]
    trainings.end("t", TrainingState.TRAINING_STATE_STOPPED, "")
    assert collected(registry) == [named(version(1))]


def test_an_artifact_stays_while_one_of_its_versions_is_needed(registry: PolicyRegistry) -> None:
    def of_another(learned: LearnedVersion, name: str) -> LearnedVersion:
        manifest = PolicyManifest()
        manifest.CopyFrom(learned.manifest)
        manifest.network, manifest.policy_version = "theirs", name
        return replace(learned, manifest=manifest)

    shared = version(1)
    names = register(
        registry, of_another(shared, "one"), of_another(shared, "other"), version(2), version(3)
    )
    registry.activate("other", "")
    assert collected(registry) == [names[2]]
    assert registry.read_artifact("one", 0).data


async def test_the_service_collects(tmp_path: Path) -> None:
    async with running(tmp_path) as client:
        answer = await client.registry.CollectGarbage(CollectGarbageRequest(dry_run=True))
        assert (list(answer.policy_versions), answer.freed_bytes) == ([], 0)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.registry.CollectGarbage(CollectGarbageRequest(keep_newest=2_000_000))
        assert from_rpc_error(caught.value).error_code is ErrorCode.INVALID_ARGUMENT
