"""What actions do to the true accuracy, beside a twin that only waits."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.kasmina.simulator.episodes import (
    WAIT,
    advance,
    advantage,
    changed,
    family,
    growing,
    hidden_seed,
    played,
    seeds_where,
    with_situation,
)

from kasmina.network.slot import Action, Stage
from kasmina.simulator.growth import saturated
from kasmina.simulator.parameters import Parameters
from kasmina.simulator.policies import Choice

BLUEPRINT = "conv1x1"
ONE_SLOT = family(episode={"slots": 1}, seeds={"choice": "fixed", "candidates": [BLUEPRINT]})
GOOD = with_situation(seeds_where(ONE_SLOT, BLUEPRINT, bad=False))
BAD = with_situation(seeds_where(ONE_SLOT, BLUEPRINT, bad=True))
ALL_GOOD = family(seeds={"choice": "fixed", "bad_share": 0.0})


def curve(parameters: Parameters, training: int, waiting: int, bad: bool = False) -> list[float]:
    """Advantage over waiting after every interval of growing one seed and then waiting."""
    trainer = played(parameters, seeds=BAD if bad else GOOD)
    points = [advantage(trainer)]
    for choice in [*growing("slot-0", training), *[WAIT] * waiting]:
        advance(trainer, [choice])
        points.append(advantage(trainer))
    return points


def test_before_blending_nothing_can_be_told_from_waiting() -> None:
    for training in (1, 4):
        assert curve(ONE_SLOT, training, waiting=0)[: 2 + training] == [0.0] * (2 + training)


def test_a_good_seed_is_worth_its_effect_in_the_long_run_when_it_was_trained_well() -> None:
    effect = hidden_seed(ONE_SLOT, GOOD.situation, BLUEPRINT).effect
    final = curve(ONE_SLOT, training=8, waiting=15)[-1]
    assert final == pytest.approx(saturated(effect, 0.4), abs=1e-3)


def test_a_good_seed_pays_with_a_lag() -> None:
    points = curve(ONE_SLOT, training=8, waiting=10)
    blended = 1 + 8 + 3
    assert points[blended] < 0.7 * points[-1]
    assert all(earlier < later for earlier, later in itertools.pairwise(points[blended:]))


def test_training_makes_more_of_a_good_seed() -> None:
    hasty, patient = (curve(ONE_SLOT, training, waiting=14)[-1] for training in (1, 5))
    assert patient > hasty + 0.005


def test_training_makes_the_blend_of_any_seed_cheaper() -> None:
    hasty, patient = (
        curve(ONE_SLOT, training, waiting=0, bad=True)[2 + training] for training in (1, 5)
    )
    assert hasty < patient - 0.004


def test_a_bad_seed_takes_its_toll_with_alpha_at_once() -> None:
    calm = family(
        episode={"slots": 1},
        seeds={"choice": "fixed", "candidates": [BLUEPRINT]},
        growth={"untrained_shock": 0.0},
    )
    effect = hidden_seed(calm, BAD.situation, BLUEPRINT).effect
    assert effect < 0.0
    points = curve(calm, training=2, waiting=5, bad=True)
    assert points[:4] == [0.0] * 4
    assert points[4:] == pytest.approx([effect / 3, effect * 2 / 3, *[effect] * 7])


def test_culling_a_bad_seed_leaves_the_shock_of_its_blending_which_wears_off() -> None:
    trainer = played(ONE_SLOT, growing("slot-0", training=1)[:-1], BAD)
    toll = advantage(trainer)
    advance(trainer, [(Action.CULL, "slot-0")])
    after = [advantage(trainer)]
    for _ in range(15):
        advance(trainer, [WAIT])
        after.append(advantage(trainer))
    assert toll < after[0] < 0.0
    assert all(earlier < later for earlier, later in itertools.pairwise(after))
    assert after[-1] == pytest.approx(0.0, abs=1e-4)


def test_a_seed_that_is_culled_takes_what_it_learnt_along() -> None:
    again = [*growing("slot-0", training=5)[:5], (Action.CULL, "slot-0")]
    once = played(ONE_SLOT, [*[WAIT] * 6, *growing("slot-0", training=1)], GOOD)
    twice = played(ONE_SLOT, [*again, *growing("slot-0", training=1)], GOOD)
    assert advantage(twice) == advantage(once)


def test_seeds_that_blend_together_cost_more_than_seeds_that_blend_in_turn() -> None:
    roomy = changed(ALL_GOOD, seeds={"headroom": 1e6})
    slots = ("slot-0", "slot-1")

    def lost(meanwhile: list[Choice]) -> float:
        """What two seeds cost each other, between whose blends so much happens."""
        together = [
            *[(Action.GERMINATE, slot_id) for slot_id in slots],
            *[(Action.ADVANCE, slot_id) for slot_id in slots],
            (Action.ADVANCE, "slot-0"),
            *meanwhile,
            (Action.ADVANCE, "slot-1"),
            *[WAIT] * 2,
        ]
        alone = [
            [choice if choice[1] == slot_id else WAIT for choice in together] for slot_id in slots
        ]
        return sum(advantage(played(roomy, choices)) for choices in alone) - advantage(
            played(roomy, together)
        )

    assert lost([]) > lost([WAIT]) > 0.001
    assert lost([WAIT, WAIT, (Action.ADVANCE, "slot-0")]) == pytest.approx(0.0, abs=1e-6)


def test_blending_lasts_as_many_intervals_as_the_episode_says() -> None:
    parameters = family(episode={"slots": 1, "blend_intervals": 5})
    trainer = played(parameters, growing("slot-0", blending=5)[:3], GOOD)
    alphas = [trainer.snapshot().slots[0].alpha]
    for _ in range(5):
        advance(trainer, [WAIT])
        alphas.append(trainer.snapshot().slots[0].alpha)
    assert alphas == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert trainer.snapshot().slots[0].stage is Stage.BLENDING


@given(st.floats(-1.0, 10.0), st.floats(0.0, 1.0), st.floats(0.01, 2.0))
def test_more_at_the_slots_is_never_less_and_never_beyond_the_headroom(
    gain: float, more: float, headroom: float
) -> None:
    assert saturated(gain, headroom) <= saturated(gain + more, headroom) <= headroom
    assert saturated(-more, headroom) == -more
