"""The parts of the study that are arithmetic: schedules, the search's budget, folders, tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.studies.growing.outcomes import Act, Outcome
from tests.studies.growing.preset import CHANNELS, CIFAR100, WAITING, Share
from tests.studies.growing.problem import StudyError
from tests.studies.growing.schedules import (
    NOTHING,
    Halving,
    Schedule,
    better_half,
    family,
    policy_named,
)
from tests.studies.growing.state import State, locked
from tests.studies.growing.tables import actions, comparison, groups, shares
from tests.studies.growing.training import chunks

CONFIG = {"preset": "cifar100", "seed": 0}


def outcome(
    index: int, accuracy: float, *, channels: Sequence[int] = CHANNELS, dud: bool = False
) -> Outcome:
    return Outcome(
        index=index,
        accuracy=accuracy,
        rent=0.5,
        situation={
            "training images": 2000,
            "label noise": 0.2,
            "channels": list(channels),
            "learning rate": 0.1,
            "duds": ["conv3x3"] if dud else [],
        },
        acts=[
            Act("GERMINATE", "slot-2", True),
            Act("ADVANCE", "slot-2", True),
            Act("CULL", "slot-0", False),
            Act("WAIT", "", True),
        ],
        kept=["slot-2"],
        versions=["v1"],
        seconds=2.0,
    )


def test_a_schedule_lives_as_fast_as_it_may_with_one_action_a_step() -> None:
    alone = Schedule((2,), 3)
    assert alone.steps(2) == {3: (2, 0), 4: (2, 1), 5: (2, 2), 7: (2, 3)}
    both = Schedule((2, 1), 0).steps(2)
    assert both == {0: (2, 0), 1: (2, 1), 2: (2, 2), 4: (2, 3), 3: (1, 0), 5: (1, 1)} | {
        6: (1, 2),
        8: (1, 3),
    }


def test_a_schedule_is_a_plan_and_is_known_by_its_name() -> None:
    schedule = Schedule((2, 1), 4)
    assert schedule.name == "2,1@4"
    assert policy_named("2,1@4", 2) == schedule.policy(2)
    assert [action.slot_id for action in schedule.policy(2).plan.actions][:2] == ["slot-2"] * 2
    assert policy_named(NOTHING, 2) == WAITING


def test_every_schedule_of_the_family_ends_in_time() -> None:
    every = family(CIFAR100.horizon, CIFAR100.growth.blend_intervals)
    assert len(every) == len({one.slug for one in every}) > 20
    for one in every:
        assert max(one.steps(CIFAR100.growth.blend_intervals)) < CIFAR100.horizon


@pytest.mark.parametrize("budget", [2, 4, 7, 60, 160, 1000])
def test_a_search_stays_within_its_budget(budget: int) -> None:
    halving = Halving.within(budget, 27)
    assert halving is not None
    left, played = halving.candidates, 0
    for _ in range(halving.rounds):
        assert halving.situations(left) >= 1
        played += halving.situations(left) * (left + 1)
        left = -(-left // 2)
    assert left == 1
    assert played <= budget


def test_a_budget_that_pays_for_no_pair_is_none() -> None:
    assert Halving.within(1, 27) is None


def test_the_better_half_is_ranked_by_all_that_was_played() -> None:
    assert better_half({"a": [1.0, 1.0], "b": [3.0, 0.0], "c": [0.0, 0.5]}) == ["b", "a"]


def test_training_goes_in_chunks_each_beside_its_twins() -> None:
    coming = chunks(CIFAR100, 0, minus_twin=True)
    (twin, learned), (_, later) = next(coming), next(coming)
    assert learned.spec.twin_run == twin.run_id
    assert twin.spec.policy.HasField("plan")
    assert later.spec.first_episode == learned.spec.first_episode + CIFAR100.chunk
    assert len(next(chunks(CIFAR100, 0, minus_twin=False))) == 1


def test_all_that_differs_between_the_arms_is_who_decides() -> None:
    share = Share(seed=5, first=0, episodes=5)
    one, other = (CIFAR100.run_spec(policy, share) for policy in (WAITING, policy_named("2@0", 2)))
    other.policy.CopyFrom(one.policy)
    assert one == other


def test_a_folder_has_one_invocation_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(StudyError, match="locked by another invocation"):
        locked(tmp_path).__enter__()
    with locked(tmp_path):
        pass


def test_a_folder_is_of_one_study(tmp_path: Path) -> None:
    state = State.open(tmp_path, CONFIG)
    state.seconds["train"] = 12.5
    state.save()
    assert State.open(tmp_path, CONFIG).seconds == {"train": 12.5}
    with pytest.raises(StudyError, match="seed 0, now 1"):
        State.open(tmp_path, {**CONFIG, "seed": 1})
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(StudyError, match=r"study\.json is not a study's"):
        State.open(tmp_path, CONFIG)


def test_a_clock_counts_over_invocations(tmp_path: Path) -> None:
    for _ in range(2):
        clock = State.open(tmp_path, CONFIG).clock("train")
        clock.save()
    first = State.open(tmp_path, CONFIG).seconds["train"]
    clock.tick()
    assert first > 0


def test_tables_say_the_differences_and_where_actions_went() -> None:
    played = {
        "wait": {0: outcome(0, 20.0), 1: outcome(1, 30.0)},
        "learned, greedy": {0: outcome(0, 23.0), 1: outcome(1, 33.0)},
    }
    assert "| wait | 25.00 % | - | +3.00 (+3.00 to +3.00) |" in comparison(played)
    narrow = outcome(1, 20.0, channels=(16, 4, 64), dud=True)
    named = groups([outcome(0, 20.0), narrow])
    assert next(iter(named)) == "all"
    assert named["bottleneck at slot-1"] == named["blueprint is a dud"] == [narrow]
    of = shares([narrow])
    assert of["WAIT"] == of["no-op"] == of["GERMINATE slot-2"] == 0.25
    assert of["kept slot-2"] == 1.0
    assert "| all | 2 | 25 % | 0 / 0 / 25 | 0 / 0 / 0 | 25 / 25 / 0 | 25 % |" in actions(
        [outcome(0, 20.0), narrow]
    )
