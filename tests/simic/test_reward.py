from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint, EntryPoints

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.simic.episodes import Script

from kasmina.simulator.parameters import load_family
from kasmina.simulator.situation import SimulationSeeds
from kasmina.simulator.trainer import SimulatedTrainer
from leyline.v1.learner_pb2 import TrainingPlan
from leyline.v1.transition_pb2 import Transition
from simic.learning import reward as reward_module
from simic.learning.plan import fill
from simic.learning.reward import (
    RewardUndefined,
    accuracy_delta,
    less_the_twin,
    rent,
    reward_by_name,
    reward_names,
)

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


def spending(accuracies: list[float], spent: list[int]) -> list[Transition]:
    """An episode's steps, with the multiply-adds spent up to the end of each; the bare host's are
    100 an interval.
    """
    steps = Script(accuracies=accuracies).transitions()
    for step, total in zip(steps, spent, strict=True):
        step.facts.multiply_adds_spent = total
        step.facts.multiply_adds_bare = 100
    return steps


def test_rent_is_paid_for_what_is_spent_beyond_the_bare_host() -> None:
    # The second interval cost half as much again, the third twice as much.
    steps = spending([0.1, 0.2, 0.3, 0.4], [100, 250, 450])
    assert rent(steps, price=6.0) == pytest.approx([0.0, 0.1, 0.2])
    paid = reward_by_name("accuracy-delta-rent", 6.0)(steps)
    assert paid == pytest.approx([1.0, 0.9, 0.8])


def test_spending_as_much_again_costs_the_price_over_the_whole_episode() -> None:
    steps = spending([0.1] * 11, [200 * step for step in range(1, 11)])
    assert rent(steps, price=5.0).sum() == pytest.approx(0.5)


def test_one_who_only_waits_pays_no_rent() -> None:
    parameters = load_family("default")
    trainer = SimulatedTrainer(parameters, SimulationSeeds.of_episode(root=1, index=0))
    facts = [trainer.train_interval() for _ in range(parameters.episode.horizon)]
    steps = Script(accuracies=[0.1] * (len(facts) + 1)).transitions()
    for step, of_interval in zip(steps, facts, strict=True):
        step.facts.multiply_adds_spent = of_interval.multiply_adds_spent
        step.facts.multiply_adds_bare = of_interval.multiply_adds_bare
    assert rent(steps, price=5.0) == pytest.approx(np.zeros(len(steps)))


def test_the_final_accuracy_is_paid_at_the_end_and_what_was_measured_before_does_not_count() -> (
    None
):
    reward = reward_by_name("final-accuracy-rent", 6.0)
    steps = spending([0.1, 0.9, 0.2, 0.4], [100, 250, 450])
    assert reward(steps) == pytest.approx([0.0, -0.1, 4.0 - 0.2])


def test_a_reward_with_rent_says_what_it_misses() -> None:
    with pytest.raises(RewardUndefined, match="multiply-adds"):
        reward_by_name("accuracy-delta-rent", 1.0)(Script(accuracies=[0.1, 0.2]).transitions())


@given(accuracies, st.data())
def test_less_the_twin_is_what_acting_has_brought(values: list[float], data: st.DataObject) -> None:
    of_twin = data.draw(st.lists(st.floats(0, 1), min_size=len(values), max_size=len(values)))
    own = accuracy_delta(Script(accuracies=values).transitions())
    twin = accuracy_delta(Script(accuracies=of_twin).transitions())
    brought = (values[-1] - values[0]) - (of_twin[-1] - of_twin[0])
    assert less_the_twin(own, twin).sum() == pytest.approx(10 * brought, abs=1e-9)


def test_a_package_can_add_a_reward_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("applause", "tests.simic.test_reward:applause", reward_module.GROUP)
    monkeypatch.setattr(reward_module, "entry_points", lambda group: EntryPoints([entry]))
    assert reward_names()[-1] == "applause"
    steps = Script(accuracies=[0.1, 0.2, 0.3]).transitions()
    assert reward_by_name("applause", 1.0)(steps).tolist() == [1.0, 1.0]
    assert fill(TrainingPlan(reward="applause")).reward == "applause"


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (lambda steps: [1.0], r"gave an array of the shape \(1,\) for 2 steps"),
        (lambda steps: [1.0, float("nan")], "gave a number that is not finite"),
        (lambda steps: [1.0, "two"], "failed: ValueError"),
    ],
)
def test_a_reward_of_a_package_is_held_to_what_a_reward_is(
    monkeypatch: pytest.MonkeyPatch, reward: object, said: str
) -> None:
    monkeypatch.setitem(globals(), "theirs", reward)
    entry = EntryPoint("odd", "tests.simic.test_reward:theirs", reward_module.GROUP)
    monkeypatch.setattr(reward_module, "entry_points", lambda group: EntryPoints([entry]))
    steps = Script(accuracies=[0.1, 0.2, 0.3]).transitions()
    with pytest.raises(RewardUndefined, match=f"the reward odd {said}"):
        reward_by_name("odd", 1.0)(steps)


def applause(steps: Sequence[Transition]) -> NDArray[np.float64]:
    """One for every step."""
    return np.ones(len(steps))
