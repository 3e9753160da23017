"""Which version an episode is pinned to, and which versions may be activated while it is played."""

from __future__ import annotations

import pytest
from tests.simic.episodes import Script
from tests.simic.versions import version

from chassis.errors import ErrorCode, LeylineError
from leyline.observation import EXTENDED_SPEC
from leyline.v1.experience_pb2 import BeginEpisodeRequest
from leyline.v1.registry_pb2 import PolicyReport
from simic.experience.store import ExperienceStore
from simic.learning.lesson import LearnedVersion
from simic.policies.registry import PolicyRegistry


def activated(registry: PolicyRegistry, learned: LearnedVersion, *, force: bool = True) -> str:
    registry.register(learned.manifest, learned.artifact)
    name = learned.manifest.policy_version
    registry.activate(name, "", force=force)
    return name


def beginning(
    index: int, slots: int = 3, run: str = "run", **fields: object
) -> BeginEpisodeRequest:
    request = Script(run=run, index=index).begin()
    request.slots = slots
    request.MergeFrom(BeginEpisodeRequest(**fields))  # type: ignore[arg-type]
    return request


def refuse(registry: PolicyRegistry, name: str) -> None:
    registry.report(PolicyReport(policy_version=name, reason="GOLDEN_MISMATCH"))


def test_an_episode_is_pinned_to_the_newest_activated_version_that_decides_for_it(
    registry: PolicyRegistry, experience: ExperienceStore
) -> None:
    for_three = activated(registry, version(1))
    for_six = activated(registry, version(2, slots=6))
    extended = activated(registry, version(3, spec_name="extended"))
    fingerprint = EXTENDED_SPEC.fingerprint
    assert experience.begin(beginning(0)).policy_version == for_three
    assert experience.begin(beginning(1, slots=6)).policy_version == for_six
    begun = experience.begin(beginning(2, spec_fingerprint=fingerprint))
    assert begun.policy_version == extended
    newer = activated(registry, version(4))
    assert experience.begin(beginning(3)).policy_version == newer


def test_an_episode_for_which_nothing_decides_is_not_pinned(
    registry: PolicyRegistry, experience: ExperienceStore
) -> None:
    activated(registry, version(1, slots=6))
    registered = version(2)
    registry.register(registered.manifest, registered.artifact)
    assert not experience.begin(beginning(0)).HasField("policy_version")


def test_of_versions_that_were_refused_the_newest_that_fits_is_pinned(
    registry: PolicyRegistry, experience: ExperienceStore
) -> None:
    first, second = activated(registry, version(1)), activated(registry, version(2))
    for_six = activated(registry, version(3, slots=6))
    refuse(registry, second)
    assert experience.begin(beginning(0)).policy_version == first
    refuse(registry, first)
    assert experience.begin(beginning(1)).policy_version == second
    assert experience.begin(beginning(2, slots=6)).policy_version == for_six


def test_what_was_rolled_back_serves_only_where_nothing_else_decides(
    registry: PolicyRegistry, experience: ExperienceStore
) -> None:
    older = activated(registry, version(1, slots=6))
    for_three = activated(registry, version(2))
    newer = activated(registry, version(3, slots=6))
    assert registry.roll_back("").policy_version == for_three
    assert experience.begin(beginning(0, slots=6)).policy_version == older
    assert registry.roll_back("").policy_version == older
    assert experience.begin(beginning(1, slots=6)).policy_version == older
    assert experience.begin(beginning(2)).policy_version == for_three
    assert newer not in (older, for_three)


def test_a_version_that_does_not_decide_for_a_played_episode_is_activated_by_force_alone(
    registry: PolicyRegistry, experience: ExperienceStore
) -> None:
    for_three = activated(registry, version(1))
    script = Script(run="played", index=0)
    experience.begin(beginning(0, run="played"))
    experience.begin(beginning(0, slots=6, run="other", follows_registry=False))
    with pytest.raises(LeylineError) as caught:
        activated(registry, version(2, slots=6), force=False)
    assert caught.value.code is ErrorCode.VERSION_DOES_NOT_FIT
    assert "run 'played' has 3 slots under the spec" in str(caught.value)
    assert "it decides for 6 slots under the spec" in str(caught.value)
    assert registry.get("").manifest.policy_version == for_three
    with pytest.raises(LeylineError, match="does not decide for episodes"):
        activated(registry, version(3, spec_name="extended"), force=False)

    for_six = activated(registry, version(2, slots=6), force=True)
    assert registry.get("").manifest.policy_version == for_six
    assert experience.begin(beginning(1, run="played")).policy_version == for_three

    experience.record(Script(run="played", index=1, version=for_three).items())
    experience.record(script.items())
    assert activated(registry, version(4, slots=6), force=False)
