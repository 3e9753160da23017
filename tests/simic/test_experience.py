from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.simic.episodes import Script
from tests.simic.tables import empty

from chassis.errors import ErrorCode, LeylineError
from leyline.v1.experience_pb2 import ExperienceItem, ReadEpisodesRequest
from leyline.v1.transition_pb2 import EpisodeEnd, Termination, Transition
from simic.database.database import Database
from simic.database.schema import episodes
from simic.experience.reading import ExperienceReader
from simic.experience.store import ExperienceStore, Rejection

FINGERPRINT = "f" * 64


def codes(outcomes: list[Rejection | None]) -> list[ErrorCode | None]:
    return [None if outcome is None else outcome.error.code for outcome in outcomes]


def stored(reader: ExperienceReader, run: str = "") -> tuple[list[Transition], list[EpisodeEnd]]:
    records = [each for page in reader.read(ReadEpisodesRequest(run_id=run)) for each in page]
    return (
        [each.transition for each in records if each.HasField("transition")],
        [each.end for each in records if each.HasField("end")],
    )


def measured(items: list[ExperienceItem]) -> list[ExperienceItem]:
    """With facts about each step."""
    for item in items[:-1]:
        item.transition.facts.multiply_adds_spent = 7
        item.transition.facts.duration.FromSeconds(1)
    return items


def later(items: list[ExperienceItem]) -> list[ExperienceItem]:
    """The same, done at another time and not as fast."""
    for item in items[:-1]:
        item.transition.completed_at.seconds += 3600
        if item.transition.HasField("facts"):
            item.transition.facts.duration.FromSeconds(99)
    return items


def test_each_beginning_raises_the_fence(experience: ExperienceStore) -> None:
    begin = Script().begin()
    assert [experience.begin(begin).fence for _ in range(3)] == [1, 2, 3]
    assert experience.cursor("run", 0).fence == 3


def test_what_is_recorded_is_read_back_as_it_was(
    experience: ExperienceStore, reader: ExperienceReader
) -> None:
    script = Script()
    experience.begin(script.begin())
    assert codes(experience.record(script.items())) == [None] * 4
    assert stored(reader) == (script.transitions(), [script.end()])


def test_an_episode_cannot_begin_again_in_another_shape(experience: ExperienceStore) -> None:
    experience.begin(Script().begin())
    other = Script(accuracies=[0.1] * 9).begin()
    with pytest.raises(LeylineError) as caught:
        experience.begin(other)
    assert [violation.field for violation in caught.value.violations] == ["horizon"]
    assert experience.cursor("run", 0).fence == 1


def test_a_stale_fence_is_refused_and_the_current_one_is_not(experience: ExperienceStore) -> None:
    script = Script()
    experience.begin(script.begin())
    experience.begin(script.begin())
    assert codes(experience.record(script.items(fence=1))) == [ErrorCode.STALE_FENCE] * 4
    assert codes(experience.record(script.items(fence=2))) == [None] * 4


def test_nothing_is_recorded_for_an_episode_that_this_store_did_not_begin(
    experience: ExperienceStore,
) -> None:
    script = Script()
    assert set(codes(experience.record(script.items()))) == {ErrorCode.EPISODE_NOT_BEGUN}
    experience.begin(script.begin())
    assert set(codes(experience.record(script.items(fence=9)))) == {ErrorCode.EPISODE_NOT_BEGUN}


def test_another_transition_for_a_stored_step_is_a_conflict(
    experience: ExperienceStore, reader: ExperienceReader
) -> None:
    script = Script()
    experience.begin(script.begin())
    experience.record(script.items())
    changed = script.items()[1]
    changed.transition.next_snapshot.val_accuracy = 0.99
    assert codes(experience.record([changed])) == [ErrorCode.TRANSITION_CONFLICT]
    assert stored(reader)[0] == script.transitions()


def test_a_step_that_was_done_again_at_another_time_is_the_stored_one(
    experience: ExperienceStore, reader: ExperienceReader
) -> None:
    script = Script()
    experience.begin(script.begin())
    first = measured(script.items())
    experience.record(first)
    again = later(measured(script.items(fence=experience.begin(script.begin()).fence)))
    assert codes(experience.record(again)) == [None] * 4
    assert stored(reader)[0] == [item.transition for item in first[:-1]]


def test_so_it_is_within_a_batch(experience: ExperienceStore, reader: ExperienceReader) -> None:
    script = Script()
    experience.begin(script.begin())
    [first, *_] = measured(script.items())
    [again, *_] = later(measured(script.items()))
    assert codes(experience.record([first, again])) == [None] * 2
    assert stored(reader)[0] == [first.transition]


def with_another_cost(transition: Transition) -> None:
    transition.facts.multiply_adds_spent += 1


def without_its_facts(transition: Transition) -> None:
    transition.ClearField("facts")


@pytest.mark.parametrize("change", [with_another_cost, without_its_facts])
@pytest.mark.parametrize("together", [True, False])
def test_one_that_was_done_otherwise_at_another_time_is_a_conflict(
    experience: ExperienceStore, change: Callable[[Transition], None], together: bool
) -> None:
    script = Script()
    experience.begin(script.begin())
    [first, *_] = measured(script.items())
    [other, *_] = later(measured(script.items()))
    change(other.transition)
    batches = [[first, other]] if together else [[first], [other]]
    outcomes = [code for batch in batches for code in codes(experience.record(batch))]
    assert outcomes == [None, ErrorCode.TRANSITION_CONFLICT]


def test_facts_that_are_missing_are_others_than_empty_ones(experience: ExperienceStore) -> None:
    script = Script()
    experience.begin(script.begin())
    [first, *_] = script.items()
    [other, *_] = later(script.items())
    experience.record([first])
    assert codes(experience.record([other])) == [None]
    other.transition.facts.SetInParent()
    assert codes(experience.record([other])) == [ErrorCode.TRANSITION_CONFLICT]


def test_a_stale_fence_is_refused_for_a_step_that_is_stored_too(
    experience: ExperienceStore,
) -> None:
    script = Script()
    experience.begin(script.begin())
    experience.record(script.items())
    experience.begin(script.begin())
    for again in (script.items(), later(script.items())):
        assert codes(experience.record(again)) == [ErrorCode.STALE_FENCE] * 4


def test_two_transitions_for_one_step_in_one_batch_are_a_conflict(
    experience: ExperienceStore, reader: ExperienceReader
) -> None:
    script = Script()
    experience.begin(script.begin())
    first, second = script.items()[0], script.items()[0]
    second.transition.next_snapshot.val_accuracy = 0.99
    outcome = experience.record([first, first, second])
    assert codes(outcome) == [None, None, ErrorCode.TRANSITION_CONFLICT]
    assert stored(reader)[0] == script.transitions()[:1]


def test_a_bad_item_is_refused_alone_with_the_rule_that_it_breaks(
    experience: ExperienceStore, reader: ExperienceReader
) -> None:
    script = Script()
    experience.begin(script.begin())
    items = script.items()
    items[1].transition.snapshot.val_accuracy = float("nan")
    items[2].transition.decision.ClearField("action_type")
    outcomes = experience.record(items)
    assert codes(outcomes) == [None, *[ErrorCode.INVALID_ARGUMENT] * 2, None]
    assert outcomes[1] is not None
    assert outcomes[1].sequence == 2
    assert "transition.snapshot.val_accuracy" in {
        violation.field for violation in outcomes[1].error.violations
    }
    assert stored(reader)[0] == script.transitions()[:1]
    assert experience.cursor("run", 0).next_step == 1


@pytest.mark.parametrize("time", [{"seconds": 2**62}, {"nanos": -1}, {"nanos": 10**9}])
def test_a_time_that_no_calendar_has_is_refused_alone(
    experience: ExperienceStore, time: dict[str, int]
) -> None:
    script = Script()
    experience.begin(script.begin())
    items = script.items()
    items[1].transition.completed_at.MergeFrom(Timestamp(**time))
    items[-1].episode_end.ended_at.MergeFrom(Timestamp(**time))
    outcomes = experience.record(items)
    refused = ErrorCode.INVALID_ARGUMENT
    assert codes(outcomes) == [None, refused, None, refused]


def test_an_episode_of_no_step_does_not_come_to_its_horizon(experience: ExperienceStore) -> None:
    script = Script()
    experience.begin(script.begin())
    [*_, end] = script.items()
    end.episode_end.steps = 0
    assert codes(experience.record([end])) == [ErrorCode.INVALID_ARGUMENT]
    end.episode_end.termination = Termination.TERMINATION_CANCELLED
    assert codes(experience.record([end])) == [None]


def with_another_fingerprint(transition: Transition) -> None:
    transition.spec_fingerprint = FINGERPRINT


def with_one_slot_less(transition: Transition) -> None:
    del transition.next_snapshot.slots[0]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (with_another_fingerprint, ErrorCode.FINGERPRINT_MISMATCH),
        (with_one_slot_less, ErrorCode.SLOT_COUNT_MISMATCH),
    ],
)
def test_a_transition_has_the_shape_of_its_episode(
    experience: ExperienceStore, change: Callable[[Transition], None], code: ErrorCode
) -> None:
    script = Script()
    experience.begin(script.begin())
    item = script.items()[0]
    change(item.transition)
    assert codes(experience.record([item])) == [code]


def test_nothing_follows_the_end_of_an_episode(experience: ExperienceStore) -> None:
    script = Script(accuracies=[0.1, 0.2, 0.3, 0.4, 0.5])
    experience.begin(script.begin())
    *steps, end = script.items()
    end.episode_end.steps = 2
    end.episode_end.termination = Termination.TERMINATION_CANCELLED
    other_end = ExperienceItem(sequence=9, fence=1, episode_end=script.end())
    outcome = experience.record([end, *steps, end, other_end])
    ended = ErrorCode.EPISODE_ENDED
    assert codes(outcome) == [None, None, None, ended, ended, None, ended]


def test_an_end_cannot_leave_stored_steps_behind_it(experience: ExperienceStore) -> None:
    script = Script()
    experience.begin(script.begin())
    *steps, end = script.items()
    end.episode_end.steps = 2
    assert codes(experience.record([*steps, end])) == [*[None] * 3, ErrorCode.INVALID_ARGUMENT]
    assert experience.cursor("run", 0).termination == Termination.TERMINATION_UNSPECIFIED


def test_the_cursor_counts_steps_without_a_gap(experience: ExperienceStore) -> None:
    script = Script()
    experience.begin(script.begin())
    first, second, third, end = script.items()
    for item, expected in ((third, 0), (end, 0), (first, 1), (second, 3)):
        experience.record([item])
        assert experience.cursor("run", 0).next_step == expected


def test_an_unknown_episode_has_no_cursor(experience: ExperienceStore) -> None:
    with pytest.raises(LeylineError) as caught:
        experience.cursor("run", 7)
    assert caught.value.code is ErrorCode.EPISODE_NOT_FOUND


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_order_and_any_number_of_sendings_stores_each_step_once(
    data: st.DataObject, database: Database
) -> None:
    experience, reader = ExperienceStore(database), ExperienceReader(database)
    empty(database)
    scripts = [Script(run=run, index=index) for run in ("a", "b") for index in (0, 1)]
    for script in scripts:
        experience.begin(script.begin())
    everything = [item for script in scripts for item in script.items()]
    sendings = data.draw(
        st.lists(st.lists(st.sampled_from(range(len(everything))), max_size=20), max_size=8)
    )
    for sending in [*sendings, data.draw(st.permutations(range(len(everything))))]:
        assert set(experience.record([everything[index] for index in sending])) <= {None}
    steps, ends = stored(reader)
    assert steps == [step for script in scripts for step in script.transitions()]
    assert ends == [script.end() for script in scripts]
    with database.read() as connection:
        order = connection.execute(episodes.select()).mappings()
        assert sorted(row["whole_sequence"] for row in order) == [1, 2, 3, 4]
