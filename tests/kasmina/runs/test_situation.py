"""What an episode draws from a range of situations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.validation import violations
from kasmina.runs.run_defaults import fill_in
from kasmina.runs.situation import draw, range_names, shipped_range
from kasmina.settings import KasminaSettings
from leyline.v1.episode_pb2 import DoubleRange, Situation, SituationRange
from leyline.v1.trainer_pb2 import (
    BLUEPRINT_CHOICE_ROUND_ROBIN,
    DatasetSpec,
    GrowthSpec,
    HostSpec,
    RunSpec,
)

SPEC = fill_in(
    RunSpec(
        host=HostSpec(channels=[16, 32, 64, 48]),
        dataset=DatasetSpec(name="digits", training_images=20_000),
        growth=GrowthSpec(
            choice=BLUEPRINT_CHOICE_ROUND_ROBIN, candidates=["conv1x1", "conv3x3", "norm"]
        ),
    ),
    KasminaSettings(),
)

ends = st.floats(1e-3, 1.0)
seeds = st.integers(0, 2**63 - 1)
ranges = st.builds(
    lambda probability, factor, images, noise, rate, dud: SituationRange(
        name="any",
        bottleneck_probability=probability,
        bottleneck_factor=DoubleRange(low=min(factor), high=max(factor)),
        training_images=images,
        label_noise=noise,
        learning_rate=DoubleRange(low=min(rate), high=max(rate)),
        dud_probability=dud,
    ),
    st.floats(0, 1),
    st.tuples(ends, ends),
    st.lists(st.integers(1, 50_000), max_size=4),
    st.lists(st.floats(0, 1), max_size=4),
    st.tuples(ends, ends),
    st.floats(0, 1),
)


@given(situations=ranges, seed=seeds)
def test_what_is_drawn_lies_within_its_range(situations: SituationRange, seed: int) -> None:
    assert violations(situations) == ()
    drawn = draw(situations, SPEC, seed)
    assert violations(drawn) == ()
    assert drawn.range == "any"
    assert drawn.training_images in (list(situations.training_images) or [20_000])
    assert drawn.label_noise in (list(situations.label_noise) or [0.0])
    rate = situations.learning_rate
    assert rate.low <= drawn.learning_rate <= rate.high
    narrowed = [
        (own, width)
        for own, width in zip(SPEC.host.channels, drawn.channels, strict=True)
        if own != width
    ]
    assert len(narrowed) <= 1
    for own, width in narrowed:
        factor = situations.bottleneck_factor
        assert max(round(factor.low * own), 1) <= width <= max(round(factor.high * own), 1)
    assert list(drawn.duds) == sorted(set(drawn.duds))
    assert set(drawn.duds) <= set(SPEC.growth.candidates)


@given(situations=ranges, seed=seeds)
def test_what_is_drawn_is_a_function_of_the_seed(situations: SituationRange, seed: int) -> None:
    assert draw(situations, SPEC, seed) == draw(situations, SPEC, seed)


def no_bottleneck(situations: SituationRange) -> None:
    situations.bottleneck_probability = 0.0


def other_images(situations: SituationRange) -> None:
    situations.training_images.extend([7, 8, 9])


def other_noise(situations: SituationRange) -> None:
    situations.label_noise.append(0.7)


def other_rate(situations: SituationRange) -> None:
    situations.learning_rate.high = 2.0


def other_duds(situations: SituationRange) -> None:
    situations.dud_probability = 1.0 - situations.dud_probability


@pytest.mark.parametrize(
    ("change", "drawn_by_it"),
    [
        (no_bottleneck, "channels"),
        (other_images, "training_images"),
        (other_noise, "label_noise"),
        (other_rate, "learning_rate"),
        (other_duds, "duds"),
    ],
)
@given(situations=ranges, seed=seeds)
def test_changing_one_distribution_leaves_what_the_others_draw_alone(
    change: Callable[[SituationRange], None],
    drawn_by_it: str,
    situations: SituationRange,
    seed: int,
) -> None:
    changed = SituationRange()
    changed.CopyFrom(situations)
    change(changed)
    before, after = draw(situations, SPEC, seed), draw(changed, SPEC, seed)
    for drawn in (before, after):
        drawn.ClearField(drawn_by_it)  # type: ignore[arg-type]
    assert before == after


@given(seed=seeds, candidates=st.sets(st.sampled_from(["conv1x1", "bottleneck", "depthwise"])))
def test_whether_a_blueprint_is_a_dud_does_not_depend_on_the_others(
    seed: int, candidates: set[str]
) -> None:
    spec = RunSpec()
    spec.CopyFrom(SPEC)
    spec.growth.candidates.extend(sorted(candidates - {"conv1x1"}))
    situations = SituationRange(name="any", dud_probability=0.5)
    few, many = (set(draw(situations, each, seed).duds) for each in (SPEC, spec))
    assert few == many & set(SPEC.growth.candidates)


def test_a_range_that_varies_nothing_leaves_everything_as_the_specification_says() -> None:
    drawn = draw(SituationRange(name="still"), SPEC, seed=3)
    assert drawn == Situation(
        range="still",
        channels=SPEC.host.channels,
        training_images=20_000,
        learning_rate=SPEC.training.learning_rate,
    )


@pytest.mark.parametrize("name", range_names())
def test_a_shipped_range_keeps_the_contract(name: str) -> None:
    shipped = shipped_range(name)
    assert shipped.name == name
    assert violations(shipped) == ()


def test_the_held_out_range_shares_no_value_with_the_one_that_is_learned_from() -> None:
    mixed, held_out = shipped_range("mixed"), shipped_range("held-out")
    assert (mixed.held_out, held_out.held_out) == (False, True)
    assert not set(mixed.training_images) & set(held_out.training_images)
    assert not set(mixed.label_noise) & set(held_out.label_noise)
    assert held_out.bottleneck_factor.high < mixed.bottleneck_factor.low
    assert held_out.learning_rate.high < mixed.learning_rate.low


def test_bottlenecks_and_duds_come_as_often_as_their_probabilities_say() -> None:
    situations = shipped_range("mixed")
    drawn = [draw(situations, SPEC, seed) for seed in range(1000)]
    narrow = sum(list(each.channels) != list(SPEC.host.channels) for each in drawn)
    assert 450 < narrow < 550
    assert 0.27 < sum(len(each.duds) for each in drawn) / 3000 < 0.33
    depths = {
        depth
        for each in drawn
        for depth, width in enumerate(each.channels)
        if width != SPEC.host.channels[depth]
    }
    assert depths == {0, 1, 2, 3}
