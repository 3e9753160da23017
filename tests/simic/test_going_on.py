"""Which version a training begins with: the one that its plan names, the active, or a new one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from leyline.v1.learner_pb2 import TrainingPlan, TrainingState
from simic.database.database import Database
from simic.learning.learner import Learner, UnfitBase
from simic.learning.lesson import Lessons
from simic.learning.training import TrainingStore
from simic.policies.artifact import read_weights
from simic.policies.registry import PolicyRegistry


class School:
    """Trainings over a database, one after the other."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.trainings = TrainingStore(database)
        self.folder = folder

    def begin(self, name: str, **plan: object) -> str:
        """Begin a training as its learner does, and end it; the version that it began with."""
        self.trainings.start(name, TrainingPlan(observation_spec="seed", **plan))  # type: ignore[arg-type]
        try:
            Learner(self.database, name, self.folder)
        finally:
            self.trainings.end(name, TrainingState.TRAINING_STATE_STOPPED, "")
        version = Lessons(self.database, name).progress().policy_version
        assert version is not None
        return version

    def seen(self, version: str) -> NDArray[np.float32]:
        """Which features a version's network sees: 1 or 0 for each."""
        found = Lessons(self.database, "").version(version)
        assert found is not None
        weights: NDArray[np.float32] = read_weights(found[1])["observation_seen"]
        return weights


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
