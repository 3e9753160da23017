"""Which version a training begins with: the one that its plan names, the active, or a new one."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.simic.school import School

from simic.database.database import Database
from simic.learning.learner import UnfitBase
from simic.policies.registry import PolicyRegistry


@pytest.fixture
def school(database: Database, tmp_path: Path) -> School:
    return School(database, tmp_path)


def test_a_training_goes_on_from_the_active_version_of_its_kind(
    school: School, registry: PolicyRegistry
) -> None:
    first = school.begin("first")
    assert school.begin("second", reward="final-accuracy-rent") == first
    assert school.begin("other", network="mlp") != first
    assert registry.get("").manifest.policy_version != first
    assert school.begin("named", initial_version=first) == first


def test_what_a_plan_masks_its_network_does_not_see_whatever_it_could_have_gone_on_from(
    school: School,
) -> None:
    seeing = school.begin("seeing")
    assert school.seen(seeing).all()
    blind = school.begin("blind", masked_features=["telemetry"])
    assert blind != seeing
    assert not school.seen(blind).all()
    assert school.begin("as blind", masked_features=["telemetry"]) == blind
    again = school.begin("seeing again")
    assert school.seen(again).all()
    with pytest.raises(UnfitBase, match="of the plan's slots and mask"):
        school.begin("named", initial_version=blind)
