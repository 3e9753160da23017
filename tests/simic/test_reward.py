from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.simic.episodes import Script

from simic.learning.reward import accuracy_delta

accuracies = st.lists(st.floats(0, 1), min_size=2, max_size=30)


def test_ten_points_of_accuracy_are_one_unit() -> None:
    rewards = accuracy_delta(Script(accuracies=[0.25, 0.35, 0.30]).transitions())
    assert rewards == pytest.approx([1.0, -0.5])


@given(accuracies)
def test_rewards_add_up_to_what_the_episode_gained(values: list[float]) -> None:
    rewards = accuracy_delta(Script(accuracies=values).transitions())
    assert rewards.sum() == pytest.approx(10 * (values[-1] - values[0]), abs=1e-9)


@given(accuracies, st.data())
def test_what_was_not_measured_is_paid_with_the_next_measurement(
    values: list[float], data: st.DataObject
) -> None:
    steps = Script(accuracies=values).transitions()
    known = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    for step, transition in enumerate(steps):
        if not known[step]:
            transition.snapshot.ClearField("val_accuracy")
        if not known[step + 1]:
            transition.next_snapshot.ClearField("val_accuracy")
    rewards = accuracy_delta(steps)
    measured = [value for value, is_known in zip(values, known, strict=True) if is_known]
    gained = 10 * (measured[-1] - measured[0]) if measured else 0.0
    assert rewards.sum() == pytest.approx(gained, abs=1e-9)
    assert np.isfinite(rewards).all()
