"""A policy that is learned in the growth simulator, in the little time that a test has.

`make study-learning` measures what comes of a whole training.
"""

from __future__ import annotations

import pytest
from tests.studies.simulated import evaluate, learn

from kasmina.simulator.parameters import load_family
from leyline.v1.learner_pb2 import TrainingPlan

pytestmark = pytest.mark.lengthy


@pytest.mark.parametrize("lag", [0, 3])
def test_ten_updates_teach_to_grow_where_a_random_policy_gains_next_to_nothing(lag: int) -> None:
    family = load_family("default")
    plan = TrainingPlan(seed=1, network="slot-shared", observation_spec="extended")
    learned = learn(family, plan, 80, lag=lag)
    assert evaluate(learned.network, family, 24, greedy=False) > 0.2
