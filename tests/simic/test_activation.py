"""Rolling back: one call, one version further back."""

from __future__ import annotations

import pytest
from tests.simic.versions import version

from chassis.errors import ErrorCode, LeylineError
from leyline.v1.registry_pb2 import PolicyActivated
from simic.policies.registry import PolicyRegistry


@pytest.fixture
def names(registry: PolicyRegistry) -> list[str]:
    """Versions that are registered."""
    learned = [version(seed) for seed in range(4)]
    for each in learned:
        registry.register(each.manifest, each.artifact)
    return [each.manifest.policy_version for each in learned]


def active(registry: PolicyRegistry) -> str:
    return registry.get("").manifest.policy_version


def rolled_back(registry: PolicyRegistry) -> tuple[str, str]:
    answer = registry.roll_back("")
    assert active(registry) == answer.policy_version
    return answer.policy_version, answer.previous_version


def test_rolling_back_twice_goes_back_twice(registry: PolicyRegistry, names: list[str]) -> None:
    for name in names[:3]:
        registry.activate(name, "")
    assert rolled_back(registry) == (names[1], names[2])
    assert rolled_back(registry) == (names[0], names[1])


def test_a_version_that_was_rolled_back_is_not_come_back_to(
    registry: PolicyRegistry, names: list[str]
) -> None:
    for name in names[:2]:
        registry.activate(name, "")
    registry.roll_back("")
    registry.activate(names[2], "")
    assert rolled_back(registry) == (names[0], names[2])


def test_what_was_activated_by_name_is_rolled_back_like_anything_else(
    registry: PolicyRegistry, names: list[str]
) -> None:
    first, second = names[:2]
    for name in (first, second, first):
        registry.activate(name, "")
    assert rolled_back(registry) == (second, first)
    assert rolled_back(registry) == (first, second)


def test_there_is_nothing_to_roll_back_before_the_second_version(
    registry: PolicyRegistry, names: list[str]
) -> None:
    for activation in (lambda: None, lambda: registry.activate(names[0], "")):
        activation()
        with pytest.raises(LeylineError) as caught:
            registry.roll_back("")
        assert caught.value.code is ErrorCode.NOTHING_TO_ROLL_BACK
    registry.activate(names[1], "")
    registry.roll_back("")
    with pytest.raises(LeylineError):
        registry.roll_back("")
    assert active(registry) == names[0]


def test_watchers_hear_of_a_roll_back_as_of_any_activation(
    registry: PolicyRegistry, names: list[str]
) -> None:
    first, second = names[:2]
    registry.activate(first, "")
    registry.activate(second, "")
    registry.roll_back("it only waits")
    assert registry.events(0)[-1].activated == PolicyActivated(
        policy_version=first, previous_version=second, reason="it only waits"
    )


def test_a_version_whose_artifact_is_gone_is_passed_over(
    registry: PolicyRegistry, names: list[str]
) -> None:
    for name in names[:3]:
        registry.activate(name, "")
    registry.roll_back("")
    registry.activate(names[3], "")
    # What stands is names[3] on names[1] on names[0].
    assert registry.collect_garbage(1, dry_run=False).policy_versions == [names[0], names[2]]
    assert rolled_back(registry) == (names[1], names[3])
    with pytest.raises(LeylineError) as caught:
        registry.roll_back("")
    assert caught.value.code is ErrorCode.NOTHING_TO_ROLL_BACK
