"""What is forgotten, and what is not whatever its age."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select, update
from tests.simic.clock import Clock
from tests.simic.episodes import Script
from tests.simic.running import eventually, running
from tests.simic.versions import version

from chassis.errors import ErrorCode
from leyline.v1.experience_pb2 import (
    GetStatisticsRequest,
    ListEpisodesRequest,
    ReadEpisodesRequest,
    RecordTransitionsRequest,
)
from leyline.v1.learner_pb2 import TrainingPlan, TrainingState
from leyline.v1.transition_pb2 import Termination
from simic.database.database import Database
from simic.database.schema import episodes, transitions
from simic.experience import retention
from simic.experience.abandonment import Abandonment
from simic.experience.reading import ExperienceReader
from simic.experience.retention import Retention
from simic.experience.store import ExperienceStore
from simic.learning import needs
from simic.learning.lesson import Lessons
from simic.learning.training import TrainingStore
from simic.learning.update import Update
from simic.policies import candidates
from simic.policies.registry import PolicyRegistry

ABANDONED = Termination.TERMINATION_ABANDONED


def play(experience: ExperienceStore, script: Script, twin: Script | None = None) -> None:
    """An episode, whole."""
    begin = script.begin()
    if twin is not None:
        begin.origin.twin.run_id, begin.origin.twin.episode_index = twin.run, twin.index
    fence = experience.begin(begin).fence
    assert set(experience.record(script.items(fence=fence))) == {None}


def forget(database: Database, keep_days: float = 0, keep_bytes: int = 0) -> None:
    """Forget all that is due."""
    needed = [needs.of_trainings, needs.of_evaluations]
    policy = Retention(database, keep_days, keep_bytes, needed)
    while due := policy.due():
        for one in due:
            while policy.forget(one):
                pass


def kept(reader: ExperienceReader) -> list[tuple[str, int]]:
    """The episodes of which steps are stored, oldest first."""
    listed = reader.page(ListEpisodesRequest(page_size=1000)).episodes
    return [
        (episode.head.run_id, episode.head.episode_index)
        for episode in reversed(listed)
        if episode.head.steps
    ]


def test_what_is_older_than_the_days_kept_is_forgotten_and_the_rest_is_not(
    database: Database, experience: ExperienceStore, reader: ExperienceReader, clock: Clock
) -> None:
    for index in range(4):
        play(experience, Script(index=index))
        clock.pass_days(1)
    forget(database, keep_days=2.5)
    assert kept(reader) == [("run", 2), ("run", 3)]
    forget(database)
    assert kept(reader) == [("run", 2), ("run", 3)]


def test_beyond_the_bytes_kept_the_oldest_goes_first(
    database: Database, experience: ExperienceStore, reader: ExperienceReader, clock: Clock
) -> None:
    for index in range(5):
        play(experience, Script(index=index, accuracies=[0.1] * 11))
        clock.pass_days(1)
    with database.read() as connection:
        sizes = connection.execute(select(episodes.c.stored_bytes)).scalars().all()
    forget(database, keep_bytes=sum(sizes))
    assert len(kept(reader)) == 5
    forget(database, keep_bytes=sum(sizes) - 1)
    assert kept(reader) == [("run", index) for index in range(1, 5)]
    forget(database, keep_bytes=sizes[3] + sizes[4])
    assert kept(reader) == [("run", 3), ("run", 4)]


def test_what_is_forgotten_has_its_end_and_no_steps_and_is_counted_no_more(
    database: Database, experience: ExperienceStore, reader: ExperienceReader, clock: Clock
) -> None:
    play(experience, Script(version="v-1"))
    clock.pass_days(1)
    play(experience, Script(index=1, version="v-2"))
    before = reader.statistics("")
    forget(database, keep_days=0.5)
    records = [each for page in reader.read(ReadEpisodesRequest(max_episodes=1)) for each in page]
    assert [record.WhichOneof("record") for record in records] == ["head", "end"]
    end = records[1].end
    assert (records[0].head.steps, end.steps, end.termination) == (0, 0, ABANDONED)
    assert end.ended_at == Script().end().ended_at
    assert end.message == (
        "its steps were older than the 0.5 days kept; it had ended (HORIZON) after 3 steps"
    )
    after = reader.statistics("")
    assert (before.transitions, after.transitions) == (6, 3)
    assert (after.episodes, after.episodes_ended) == (2, 2)
    assert [each.policy_version for each in after.versions] == ["v-2"]
    assert sum(action.steps for action in after.actions) == 3
    assert not reader.page(ListEpisodesRequest(policy_version="v-1")).episodes
    with database.read() as connection:
        assert set(connection.execute(select(transitions.c.episode_id)).scalars()) == {2}


def test_what_is_forgotten_cannot_come_to_mean_something_else(
    database: Database, experience: ExperienceStore, reader: ExperienceReader, clock: Clock
) -> None:
    script = Script()
    play(experience, script)
    clock.pass_days(1)
    forget(database, keep_days=0.5)
    begun = experience.begin(script.begin())
    assert (begun.fence, begun.next_step) == (2, 3)
    # A trainer that does not know of it sends again, and is done.
    assert experience.record(script.items(fence=2)) == [None] * 4
    assert reader.statistics("").transitions == 0
    longer = Script(accuracies=[0.1] * 5)
    beyond, other_end = longer.items(fence=2)[3:]
    refused = [outcome.error for outcome in experience.record([beyond, other_end]) if outcome]
    assert [error.code for error in refused] == [ErrorCode.EPISODE_ENDED] * 2
    assert refused[0].facts["termination"] == "TERMINATION_HORIZON"
    assert kept(reader) == []


def test_an_abandoned_episode_that_was_forgotten_is_not_taken_up_again(
    database: Database, experience: ExperienceStore, reader: ExperienceReader, clock: Clock
) -> None:
    script = Script()
    experience.begin(script.begin())
    items = script.items()
    experience.record(items[:2])
    clock.pass_days(1)
    Abandonment(database, 3600).look()
    forget(database, keep_days=0.5)
    assert experience.record(items[:2]) == [None] * 2
    refused = [outcome.error.code for outcome in experience.record(items[2:]) if outcome]
    assert refused == [ErrorCode.EPISODE_ENDED] * 2
    experience.begin(script.begin())
    assert experience.cursor("run", 0).termination == ABANDONED
    assert kept(reader) == []


def test_an_episode_that_goes_on_is_kept_and_so_is_its_twin(
    database: Database, experience: ExperienceStore, reader: ExperienceReader, clock: Clock
) -> None:
    twin, other, open_ = Script(run="twin"), Script(run="other"), Script(run="open")
    play(experience, twin)
    play(experience, other)
    begin = open_.begin()
    begin.origin.twin.run_id = "twin"
    experience.begin(begin)
    experience.record(open_.items()[:2])
    clock.pass_days(100)
    forget(database, keep_days=1, keep_bytes=1)
    assert kept(reader) == [("twin", 0), ("open", 0)]
    experience.record(open_.items())
    clock.pass_days(100)
    forget(database, keep_days=1)
    assert kept(reader) == []


class Training:
    """A training that runs and has made two updates, each of two episodes."""

    def __init__(self, database: Database, **plan: object) -> None:
        self.experience = ExperienceStore(database)
        self.store = TrainingStore(database)
        replays_one = {"value_batches": 1}
        asked = TrainingPlan(
            preset="demo",
            hyperparameters=replays_one,
            **plan,  # type: ignore[arg-type]
        )
        self.store.start("t", asked)
        self.lessons = Lessons(database, "t")
        self.lessons.begin(version(1))
        self.version = version(1).manifest.policy_version

    def play(self, index: int, twin: Script | None = None, run: str = "run") -> None:
        play(self.experience, Script(run=run, index=index, version=self.version), twin)

    def learn(self, number: int) -> None:
        learned = version(1 + number)
        batch = self.lessons.fresh()
        assert batch
        self.lessons.commit(number, Update(8, 0.5, {}), batch, learned)


def test_what_a_training_replays_or_has_still_to_learn_from_is_kept_with_its_twins(
    database: Database, reader: ExperienceReader, clock: Clock
) -> None:
    training = Training(database)
    twins = [Script(run="twins", index=index, version=None) for index in range(5)]
    for twin in twins:
        play(training.experience, twin)
    for number in (1, 2):
        for index in (2 * number - 2, 2 * number - 1):
            training.play(index, twins[index])
        training.learn(number)
    training.play(4, twins[4])
    play(training.experience, Script(run="by-another", version="another"))
    clock.pass_days(100)
    forget(database, keep_days=1)
    # One batch is replayed: the newest is needed, the one before it is not.
    assert kept(reader) == [
        *(("twins", 2), ("twins", 3), ("twins", 4)),
        *(("run", 2), ("run", 3), ("run", 4)),
    ]
    training.play(5)
    training.learn(3)
    [batch] = training.lessons.replayed(1)
    assert [len(episode.steps) for episode in batch] == [3, 3]
    clock.pass_days(100)
    forget(database, keep_days=1)
    assert kept(reader) == [("twins", 4), ("run", 4), ("run", 5)]
    training.store.end("t", TrainingState.TRAINING_STATE_COMPLETED, "")
    forget(database, keep_days=1)
    assert kept(reader) == []


def test_a_twin_is_kept_until_the_episode_that_it_is_for_has_been_learned_from(
    database: Database, reader: ExperienceReader, clock: Clock
) -> None:
    training = Training(database, minus_twin=True)
    twins = [Script(run="twins", index=index, version=None) for index in range(2)]
    for twin in twins:
        begin = twin.begin()
        begin.follows_registry = False
        training.experience.begin(begin)
        training.experience.record(twin.items())
    clock.pass_days(100)
    forget(database, keep_days=1)
    assert kept(reader) == [("twins", 0), ("twins", 1)]
    for index, twin in enumerate(twins):
        begin = Script(run="run", index=index, version=training.version).begin()
        begin.origin.twin.run_id, begin.origin.twin.episode_index = twin.run, twin.index
        training.experience.begin(begin)
        script = Script(run="run", index=index, version=training.version)
        training.experience.record(script.items())
    training.learn(1)
    training.store.end("t", TrainingState.TRAINING_STATE_COMPLETED, "")
    clock.pass_days(100)
    forget(database, keep_days=1)
    assert kept(reader) == []


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ({"experience": "stored", "max_updates": 9}, ["mine", "others"]),
        ({"experience": "stored", "max_updates": 9, "run_id": "others"}, ["others"]),
        ({"deterministic": True, "run_id": "others"}, ["others"]),
        ({"run_id": "others"}, []),
        ({}, ["mine"]),
    ],
)
def test_what_a_training_may_learn_from_is_what_its_plan_says(
    database: Database,
    reader: ExperienceReader,
    clock: Clock,
    plan: dict[str, object],
    expected: list[str],
) -> None:
    training = Training(database, **plan)
    training.play(0, run="mine")
    play(training.experience, Script(run="others", version="another"))
    held_out = Script(run="held-out", version=training.version).begin()
    held_out.origin.situation.range, held_out.origin.situation.held_out = "far", True
    training.experience.begin(held_out)
    training.experience.record(Script(run="held-out", version=training.version).items())
    clock.pass_days(100)
    forget(database, keep_days=1)
    assert [run for run, _ in kept(reader)] == expected


def test_what_an_evaluation_compares_is_kept_until_it_is_judged(
    database: Database, reader: ExperienceReader, clock: Clock
) -> None:
    training, new = Training(database), version(2)
    PolicyRegistry(database).register(new.manifest, new.artifact)
    candidate = new.manifest.policy_version
    for run, name in (("candidate", candidate), ("baseline", training.version), ("past", "old")):
        play(training.experience, Script(run=run, version=name))
        with database.write() as connection:
            of_run = update(episodes).where(episodes.c.run_id == run)
            connection.execute(of_run.values(evaluation_pair=0, policy_version=name))
    clock.pass_days(100)
    with database.write() as connection:
        candidates.propose(connection, 1, candidate, pairs=1)
    forget(database, keep_days=1)
    assert [run for run, _ in kept(reader)] == ["candidate", "baseline"]
    with database.write() as connection:
        candidates.dismiss_all(connection, 1)
    forget(database, keep_days=1)
    assert kept(reader) == []


def test_what_becomes_needed_after_the_look_is_not_deleted(
    database: Database, experience: ExperienceStore, reader: ExperienceReader, clock: Clock
) -> None:
    twin = Script(run="twin")
    play(experience, twin)
    clock.pass_days(100)
    policy = Retention(database, 1, 0)
    [due] = policy.due()
    begin = Script().begin()
    begin.origin.twin.run_id = "twin"
    experience.begin(begin)
    assert policy.forget(due) == 0
    assert policy.due() == []
    assert kept(reader) == [("twin", 0)]


def test_a_long_episode_goes_piece_by_piece_and_an_interruption_is_made_good(
    database: Database,
    experience: ExperienceStore,
    reader: ExperienceReader,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retention, "TRANSITIONS_A_COMMIT", 4)
    play(experience, Script(accuracies=[0.1] * 11))
    clock.pass_days(100)
    policy = Retention(database, 1, 0)
    [due] = policy.due()
    assert policy.forget(due) == 4
    counts = reader.statistics("")
    assert (counts.transitions, counts.versions[0].steps) == (6, 6)
    assert reader.page(ListEpisodesRequest()).episodes[0].end.termination == ABANDONED
    assert not any(
        record.HasField("transition")
        for page in reader.read(ReadEpisodesRequest())
        for record in page
    )
    # Another process goes on, though it would keep everything.
    [due] = Retention(database, 1000, 0).due()
    assert [policy.forget(due) for _ in range(3)] == [4, 2, 0]
    counts = reader.statistics("")
    assert (counts.transitions, len(counts.versions), len(counts.actions)) == (0, 0, 0)
    with database.read() as connection:
        row = connection.execute(select(episodes)).one()
    assert (row.stored, row.stored_bytes) == (0, 0)


async def test_a_service_forgets_by_itself_says_so_and_gives_the_disk_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(retention, "FIRST_LOOK_S", 0.1)
    monkeypatch.setattr(retention, "LOOK_S", 0.1)
    async with running(tmp_path, keep_bytes=1) as client:
        script = Script(accuracies=[0.1] * 61)
        await client.experience.BeginEpisode(script.begin())
        items = script.items()
        for item in items[:-1]:
            item.transition.facts.validation_correct = bytes(120_000)
        *open_still, end = items
        for number in range(0, len(open_still), 10):
            request = RecordTransitionsRequest(items=open_still[number : number + 10])
            assert not (await client.experience.RecordTransitions(request)).rejected
        full = (await client.experience.GetStatistics(GetStatisticsRequest())).stored_bytes
        assert full > 7_000_000
        await client.experience.RecordTransitions(RecordTransitionsRequest(items=[end]))

        async def smaller() -> bool:
            counts = await client.experience.GetStatistics(GetStatisticsRequest())
            return counts.transitions == 0 and counts.stored_bytes < full / 2

        await eventually(smaller)
    assert "experience forgotten" in capsys.readouterr().out
