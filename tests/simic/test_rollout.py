from __future__ import annotations

import numpy as np
import pytest
from tests.simic.episodes import UNIFORM_SLOT, UNIFORM_TYPE, Script

from leyline.observation import SEED_SPEC
from leyline.v1.decision_pb2 import SelectionMode
from leyline.v1.transition_pb2 import Decider
from simic.learning.rollout import NO_SLOT, trajectory


def test_an_episode_becomes_arrays_with_the_log_probabilities_that_were_told() -> None:
    found = trajectory(Script().transitions(), SEED_SPEC, np.ones(3))
    assert found.observations.shape == (3, 48)
    assert found.action_types.tolist() == [1, 0, 2]
    assert found.slots.tolist() == [2, NO_SLOT, 0]
    acting = UNIFORM_TYPE + UNIFORM_SLOT
    assert found.behaviour_log_probs == pytest.approx([acting, UNIFORM_TYPE, acting])
    assert found.by_policy.all()
    assert found.slots_seen == 3
    assert found.stages.tolist() == [1, 0, 1]
    assert found.rewards == pytest.approx([1.0, 1.0, 1.0])


def test_fallbacks_callers_and_policies_without_a_distribution_do_not_teach_the_policy() -> None:
    steps = Script().transitions()
    steps[0].decider = Decider.DECIDER_CALLER
    steps[1].decision.ClearField("type_log_prob")
    steps[2].decision.ClearField("slot_log_prob")
    assert not trajectory(steps, SEED_SPEC, np.ones(3)).by_policy.any()
    fallbacks = Script(version=None).transitions()
    assert not trajectory(fallbacks, SEED_SPEC, np.ones(3)).by_policy.any()


def test_a_greedy_decision_was_not_drawn_and_teaches_ppo_nothing() -> None:
    steps = Script().transitions()
    steps[1].decision.mode = SelectionMode.SELECTION_MODE_GREEDY
    found = trajectory(steps, SEED_SPEC, np.ones(3))
    assert found.by_policy.tolist() == [True, False, True]
    assert found.chosen.all()


def test_a_slot_is_its_place_by_depth_whatever_the_order_in_the_message() -> None:
    steps = Script().transitions()
    snapshot = steps[0].snapshot
    for slot, depth in zip(snapshot.slots, (7, 5, 2), strict=True):
        slot.depth = depth
    assert trajectory(steps, SEED_SPEC, np.ones(3)).slots[0] == 0


def test_a_slot_that_the_network_does_not_have_teaches_the_policy_nothing() -> None:
    steps = Script().transitions()
    steps[0].decision.slot_id = "elsewhere"
    found = trajectory(steps, SEED_SPEC, np.ones(3))
    assert found.slots[0] == NO_SLOT
    assert found.by_policy.tolist() == [False, True, True]
