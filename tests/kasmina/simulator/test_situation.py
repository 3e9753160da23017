from __future__ import annotations

import statistics
from collections.abc import Iterator

import pytest
from tests.kasmina.simulator.episodes import family

from kasmina.simulator.parameters import Parameters, load_family
from kasmina.simulator.situation import HiddenSeed, SimulationSeeds, Situation

EPISODES = 300


def situations(parameters: Parameters) -> Iterator[Situation]:
    for index in range(EPISODES):
        yield Situation.draw(parameters, SimulationSeeds.of_episode(1, index).situation)


def all_seeds(parameters: Parameters) -> list[HiddenSeed]:
    return [
        seed
        for situation in situations(parameters)
        for slot in situation.slots
        for seed in slot.seeds.values()
    ]


def bad_share(parameters: Parameters) -> float:
    return statistics.fmean(seed.is_bad for seed in all_seeds(parameters))


def test_four_seeds_in_ten_harm_and_some_of_them_do_not_stay_finite() -> None:
    seeds = all_seeds(load_family("default"))
    bad = [seed for seed in seeds if seed.is_bad]
    assert len(bad) / len(seeds) == pytest.approx(0.40, abs=0.03)
    assert statistics.fmean(seed.diverges for seed in bad) == pytest.approx(0.15, abs=0.03)
    assert not any(seed.diverges for seed in seeds if not seed.is_bad)
    assert all(0.02 <= -seed.effect <= 0.05 for seed in bad)


def test_the_held_out_family_is_another_world() -> None:
    default, held_out = load_family("default"), load_family("held-out")
    assert bad_share(held_out) == pytest.approx(0.50, abs=0.03)
    ends = [
        statistics.fmean(situation.host_accuracy(30) for situation in situations(parameters))
        for parameters in (default, held_out)
    ]
    assert ends[0] - ends[1] > 0.05
    one, other = (Situation.draw(parameters, 7) for parameters in (default, held_out))
    assert one.slots != other.slots


@pytest.mark.parametrize(("share", "found"), [(0.0, 0.0), (1.0, 1.0)])
def test_all_seeds_can_be_good_or_bad(share: float, found: float) -> None:
    assert bad_share(family(seeds={"bad_share": share})) == found


def test_good_seeds_add_more_at_deep_slots_and_cost_more_there() -> None:
    gains: list[list[float]] = [[], [], []]
    for situation in situations(load_family("default")):
        for slot in situation.slots:
            gains[slot.depth] += [s.effect for s in slot.seeds.values() if not s.is_bad]
    first, middle, last = map(statistics.fmean, gains)
    assert first < middle < last
    sizes = [slot.seeds["conv3x3"].parameters for slot in situation.slots]
    assert sizes == [4500, 18000, 72000]


def test_the_only_slot_is_a_deepest_one() -> None:
    (slot,) = Situation.draw(family(episode={"slots": 1}), 7).slots
    assert slot.seeds["conv3x3"].parameters == 72000
    assert 0.05 / 0.08 <= slot.need <= 1.0


def test_a_situation_is_a_function_of_family_and_seed() -> None:
    parameters = load_family("default")
    assert Situation.draw(parameters, 7) == Situation.draw(parameters, 7)
    assert Situation.draw(parameters, 7) != Situation.draw(parameters, 8)


def test_the_order_of_the_blueprints_in_a_file_decides_nothing() -> None:
    values = load_family("default").to_dict()
    values["blueprints"] = dict(reversed(values["blueprints"].items()))
    reordered = Parameters.from_dict(values)
    assert Situation.draw(reordered, 7) == Situation.draw(load_family("default"), 7)


def test_more_slots_leave_the_host_and_the_kinds_of_the_others_as_they_are() -> None:
    few, many = (Situation.draw(family(episode={"slots": slots}), 7) for slots in (3, 8))
    assert few.host_accuracy(30) == many.host_accuracy(30)
    for slot, other in zip(few.slots, many.slots[:3], strict=True):
        for blueprint, seed in slot.seeds.items():
            assert seed.is_bad == other.seeds[blueprint].is_bad
            assert seed.diverges == other.seeds[blueprint].diverges


def test_the_bare_host_rises_from_untrained_to_converged_and_never_falls() -> None:
    situation = Situation.draw(load_family("default"), 7)
    curve = [situation.host_accuracy(interval) for interval in range(200)]
    assert curve[0] == situation.untrained_accuracy == 0.01
    assert curve[-1] == pytest.approx(situation.converged_accuracy)
    assert curve == sorted(curve)


def test_seeds_of_an_episode_are_apart_from_each_other_and_from_those_of_others() -> None:
    drawn = [SimulationSeeds.of_episode(root, index) for root in (1, 2) for index in (0, 1)]
    numbers = {n for seeds in drawn for n in (seeds.situation, seeds.noise, seeds.blueprint)}
    assert len(numbers) == 12
