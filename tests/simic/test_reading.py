from __future__ import annotations

import pytest
from tests.simic.episodes import Script

from chassis.errors import LeylineError
from leyline.v1.decision_pb2 import ActionType
from leyline.v1.experience_pb2 import (
    ListEpisodesRequest,
    ReadEpisodesRequest,
    ReadEpisodesResponse,
)
from leyline.v1.transition_pb2 import ExecutionResult, NoOpReason
from simic.experience import reading
from simic.experience.reading import ExperienceReader
from simic.experience.store import ExperienceStore


@pytest.fixture
def three_episodes(experience: ExperienceStore) -> list[Script]:
    """Two whole episodes by two versions, and one of another run that goes on, by fallback."""
    scripts = [
        Script(run="a", index=0, version="v-1"),
        Script(run="a", index=1, version="v-2"),
        Script(run="b", index=0, version=None),
    ]
    for script in scripts:
        experience.begin(script.begin())
        recorded = script.items() if script.run == "a" else script.items()[:2]
        assert experience.record(recorded) == [None] * len(recorded)
    return scripts


def heads(records: list[ReadEpisodesResponse]) -> list[tuple[str, int]]:
    return [
        (record.head.run_id, record.head.episode_index)
        for record in records
        if record.HasField("head")
    ]


def read(reader: ExperienceReader, **conditions: object) -> list[ReadEpisodesResponse]:
    request = ReadEpisodesRequest(**conditions)  # type: ignore[arg-type]
    return [record for page in reader.read(request) for record in page]


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, [("a", 0), ("a", 1), ("b", 0)]),
        ({"run_id": "a"}, [("a", 0), ("a", 1)]),
        ({"first_episode": 1}, [("a", 1)]),
        ({"max_episodes": 2}, [("a", 0), ("a", 1)]),
        ({"policy_version": "v-2"}, [("a", 1)]),
        ({"ended_only": True}, [("a", 0), ("a", 1)]),
        ({"run_id": "c"}, []),
    ],
)
@pytest.mark.usefixtures("three_episodes")
def test_conditions_select_episodes(
    reader: ExperienceReader, conditions: dict[str, object], expected: list[tuple[str, int]]
) -> None:
    assert heads(read(reader, **conditions)) == expected


def test_only_episodes_that_began_later_or_earlier(
    reader: ExperienceReader, three_episodes: list[Script]
) -> None:
    records = read(reader)
    second = [record.head for record in records if record.HasField("head")][1]
    assert heads(read(reader, began_after=second.began_at)) == [("a", 1), ("b", 0)]
    assert heads(read(reader, began_before=second.began_at)) == [("a", 0)]


def test_a_head_says_how_its_episode_was_begun(
    reader: ExperienceReader, three_episodes: list[Script]
) -> None:
    begun, head = three_episodes[0].begin(), read(reader)[0].head
    assert (head.policy, head.mode, head.horizon) == (begun.policy, begun.mode, begun.horizon)


@pytest.mark.usefixtures("three_episodes")
def test_only_episodes_that_began_earlier(reader: ExperienceReader) -> None:
    second = reader.page(ListEpisodesRequest()).episodes[1].head
    assert heads(read(reader, began_before=second.began_at)) == [("a", 0)]


def listed(reader: ExperienceReader, **conditions: object) -> list[tuple[str, int]]:
    request = ListEpisodesRequest(**conditions)  # type: ignore[arg-type]
    return [
        (episode.head.run_id, episode.head.episode_index)
        for episode in reader.page(request).episodes
    ]


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, [("b", 0), ("a", 1), ("a", 0)]),
        ({"run_id": "a"}, [("a", 1), ("a", 0)]),
        ({"policy_version": "v-2"}, [("a", 1)]),
        ({"ended_only": True}, [("a", 1), ("a", 0)]),
        ({"run_id": "a", "policy_version": "v-1", "ended_only": True}, [("a", 0)]),
        ({"run_id": "c"}, []),
    ],
)
@pytest.mark.usefixtures("three_episodes")
def test_episodes_are_listed_newest_first_by_the_conditions(
    reader: ExperienceReader, conditions: dict[str, object], expected: list[tuple[str, int]]
) -> None:
    assert listed(reader, **conditions) == expected


@pytest.mark.usefixtures("three_episodes")
def test_episodes_are_listed_by_the_time_when_they_began(reader: ExperienceReader) -> None:
    second = reader.page(ListEpisodesRequest()).episodes[1].head.began_at
    assert listed(reader, began_after=second) == [("b", 0), ("a", 1)]
    assert listed(reader, began_before=second) == [("a", 0)]


@pytest.mark.usefixtures("three_episodes")
def test_a_list_says_of_each_episode_how_it_stands(reader: ExperienceReader) -> None:
    goes_on, _, whole = reader.page(ListEpisodesRequest()).episodes
    assert goes_on.head.steps == 2
    assert not goes_on.HasField("end")
    assert whole.head == read(reader)[0].head
    assert whole.end == Script(run="a").end()


@pytest.mark.usefixtures("three_episodes")
def test_pages_of_a_list_join_without_a_seam(
    experience: ExperienceStore, reader: ExperienceReader
) -> None:
    seen: list[int] = []
    request = ListEpisodesRequest(page_size=1, run_id="a")
    while True:
        page = reader.page(request)
        seen += [episode.head.episode_index for episode in page.episodes]
        # What comes meanwhile is newer than every page that follows.
        experience.begin(Script(run="a", index=9 + len(seen)).begin())
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert seen == [1, 0]


def test_a_token_that_no_page_gave_is_refused(reader: ExperienceReader) -> None:
    with pytest.raises(LeylineError) as caught:
        reader.page(ListEpisodesRequest(page_token="the next, please"))
    assert [violation.field for violation in caught.value.violations] == ["page_token"]


@pytest.mark.usefixtures("three_episodes")
def test_an_episode_that_goes_on_has_no_end(reader: ExperienceReader) -> None:
    kinds = [record.WhichOneof("record") for record in read(reader, run_id="b")]
    assert kinds == ["head", "transition", "transition"]


def test_a_head_says_what_its_episode_is_made_of_where_the_trainer_said_so(
    experience: ExperienceStore, reader: ExperienceReader
) -> None:
    begin, silent = Script(index=0).begin(), Script(index=1).begin()
    begin.origin.seeds.initialization = 2**64 - 1
    begin.origin.situation.duds.append("conv1x1")
    experience.begin(begin)
    experience.begin(silent)
    first, second = [record.head for record in read(reader)]
    assert first.origin == begin.origin
    assert not second.HasField("origin")


def test_the_origin_that_an_episode_first_began_with_is_kept(
    experience: ExperienceStore, reader: ExperienceReader
) -> None:
    begin, again = Script().begin(), Script().begin()
    begin.origin.seeds.order = 1
    again.origin.seeds.order = 2
    experience.begin(begin)
    experience.begin(again)
    assert read(reader)[0].head.origin.seeds.order == 1


def test_pages_join_without_a_seam(
    experience: ExperienceStore, reader: ExperienceReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "EPISODES_A_PAGE", 2)
    monkeypatch.setattr(reading, "TRANSITIONS_A_PAGE", 2)
    scripts = [Script(index=index, accuracies=[0.1] * (index + 2)) for index in range(5)]
    for script in scripts:
        experience.begin(script.begin())
        experience.record(script.items())
    steps = [record.transition for record in read(reader) if record.HasField("transition")]
    assert steps == [step for script in scripts for step in script.transitions()]


def test_statistics_count_what_is_stored(
    experience: ExperienceStore, reader: ExperienceReader, three_episodes: list[Script]
) -> None:
    wasted = Script(run="d", version="v-2")
    item = wasted.items()[0]
    item.transition.execution.result = ExecutionResult.EXECUTION_RESULT_NO_OP
    item.transition.execution.no_op_reason = NoOpReason.NO_OP_REASON_SLOT_OCCUPIED
    experience.begin(wasted.begin())
    experience.record([item])

    total = reader.statistics("")
    assert (total.runs, total.episodes, total.episodes_ended) == (3, 4, 2)
    assert (total.transitions, total.fallback_steps) == (9, 2)
    actions = {(each.action_type, each.slot_id): each for each in total.actions}
    germinated = actions[ActionType.ACTION_TYPE_GERMINATE, "slot-2"]
    assert (germinated.steps, germinated.no_ops) == (3, 1)
    assert actions[ActionType.ACTION_TYPE_WAIT, ""].steps == 4
    versions = {each.policy_version: (each.steps, each.episodes) for each in total.versions}
    assert versions == {"v-1": (3, 1), "v-2": (4, 2)}
    assert list(versions) == ["v-1", "v-2"]
    assert total.stored_bytes > 50_000

    of_b = reader.statistics("b")
    assert (of_b.runs, of_b.episodes, of_b.transitions, of_b.fallback_steps) == (1, 1, 2, 2)
    assert len(of_b.versions) == 0
