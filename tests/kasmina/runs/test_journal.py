"""The journal: what is in it after any call is what a crash would leave."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.rpc.status_pb2 import Status
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kasmina.neighbours import step_id

from kasmina.runs.database import Database, SchemaMismatch
from kasmina.runs.decider import fallback
from kasmina.runs.disk import DiskFull
from kasmina.runs.episode_log import Beginning, Checkpoint, FinalNetwork
from kasmina.runs.journal import Journal
from kasmina.runs.outbox import Refusal
from kasmina.runs.run_log import QueueFull, RunExists
from leyline.v1.decision_pb2 import SELECTION_MODE_SAMPLED
from leyline.v1.trainer_pb2 import (
    RUN_STATE_CANCELLED,
    RUN_STATE_COMPLETED,
    RUN_STATE_FAILED,
    RUN_STATE_PAUSED,
    RUN_STATE_QUEUED,
    RUN_STATE_RUNNING,
    Compute,
    EpisodeBegan,
    RunSpec,
    StepCompleted,
    StepDecided,
)
from leyline.v1.transition_pb2 import (
    EXECUTION_RESULT_EXECUTED,
    TERMINATION_ABANDONED,
    TERMINATION_CANCELLED,
    TERMINATION_FAILED,
    TERMINATION_HORIZON,
    EpisodeEnd,
    Execution,
    Transition,
)

BEGINNING = Beginning("coin", True, None, SELECTION_MODE_SAMPLED, None)
DONE = Execution(result=EXECUTION_RESULT_EXECUTED)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A journal with one run, taken by a worker, in its first episode."""
    journal = Journal(tmp_path / "journal.sqlite3")
    journal.runs.create("run", RunSpec(), RunSpec(episodes=2), queue_limit=5)
    journal.runs.take("run")
    journal.episodes.begin(BEGINNING, EpisodeBegan(episode_index=0), "run")
    yield journal
    journal.close()


def complete(journal: Journal, step: int) -> None:
    """Plays a step."""
    step_name = step_id("run", 0, step)
    journal.episodes.write_decision(step_name, fallback(step_name, "away"), None)
    journal.episodes.write_execution(DONE, StepDecided(step_id=step_name))
    journal.episodes.complete(
        Transition(step_id=step_name),
        StepCompleted(step_id=step_name),
        Checkpoint(step + 1, f"checkpoints/run/0-{step + 1}.safetensors"),
    )


def sequences(journal: Journal) -> list[int]:
    """Those of the run's events."""
    return [event.sequence for event in journal.events.after("run", 0)]


def test_starting_a_run_twice_with_the_same_words_starts_it_once(journal: Journal) -> None:
    first = journal.runs.create("twice", RunSpec(seed=1), RunSpec(seed=1), queue_limit=5)
    again = journal.runs.create("twice", RunSpec(seed=1), RunSpec(seed=2), queue_limit=5)
    assert first == again
    with pytest.raises(RunExists):
        journal.runs.create("twice", RunSpec(seed=2), RunSpec(seed=2), queue_limit=5)


def test_a_full_queue_takes_no_run_but_still_knows_those_it_has(journal: Journal) -> None:
    journal.runs.create("waiting", RunSpec(), RunSpec(), queue_limit=1)
    with pytest.raises(QueueFull):
        journal.runs.create("more", RunSpec(), RunSpec(), queue_limit=1)
    assert journal.runs.create("waiting", RunSpec(), RunSpec(), queue_limit=1).run_id == "waiting"


def test_the_run_that_a_worker_had_goes_before_those_that_wait(journal: Journal) -> None:
    journal.runs.create("waiting", RunSpec(), RunSpec(), queue_limit=5)
    assert journal.runs.next_to_work_on() == "run"
    journal.runs.change("run", RUN_STATE_PAUSED, "no policy")
    assert journal.runs.next_to_work_on() == "run"
    journal.runs.end("run", RUN_STATE_FAILED, "")
    assert journal.runs.next_to_work_on() == "waiting"


def test_runs_that_are_left_out_are_passed_over(journal: Journal) -> None:
    for name in ("waiting", "last"):
        journal.runs.create(name, RunSpec(), RunSpec(), queue_limit=5)
    assert journal.runs.next_to_work_on({"run"}) == "waiting"
    assert journal.runs.next_to_work_on({"run", "waiting"}) == "last"
    assert journal.runs.next_to_work_on({"run", "waiting", "last"}) is None


def test_a_driven_run_is_another_than_one_that_a_policy_decides(journal: Journal) -> None:
    driven = journal.runs.create("driven", RunSpec(), RunSpec(), queue_limit=5, driven=True)
    assert driven.driven
    assert journal.runs.create("driven", RunSpec(), RunSpec(), 5, driven=True) == driven
    with pytest.raises(RunExists):
        journal.runs.create("driven", RunSpec(), RunSpec(), queue_limit=5)


def test_how_a_run_computes_is_known_once_it_is_settled(journal: Journal) -> None:
    before = journal.runs.get("run")
    journal.runs.settle_compute("run", Compute(device="cpu", threads=3))
    after = journal.runs.get("run")
    assert before is not None
    assert after is not None
    assert (before.compute, after.compute) == (None, Compute(device="cpu", threads=3))


def test_a_run_that_has_ended_stays_as_it_is(journal: Journal) -> None:
    journal.runs.end("run", RUN_STATE_FAILED, "broken")
    ended = journal.runs.get("run")
    journal.runs.change("run", RUN_STATE_RUNNING, "")
    journal.runs.end("run", RUN_STATE_COMPLETED, "")
    journal.runs.request_cancel("run", "late")
    journal.runs.take("run")
    assert journal.runs.get("run") == ended


def test_a_queued_run_is_cancelled_at_once_and_a_running_one_is_asked_to_end(
    journal: Journal,
) -> None:
    journal.runs.create("queued", RunSpec(), RunSpec(), queue_limit=5)
    assert journal.runs.request_cancel("queued", "why").state == RUN_STATE_CANCELLED
    running = journal.runs.request_cancel("run", "why not")
    assert running.state == RUN_STATE_RUNNING
    assert journal.runs.cancel_reason("run") == "why not"


def test_a_completed_step_is_in_outbox_events_and_checkpoints_together(journal: Journal) -> None:
    complete(journal, 0)
    record = journal.runs.get("run")
    assert record is not None
    assert (record.steps_completed, record.outbox_depth) == (1, 1)
    assert journal.episodes.checkpoint("run", 0) == Checkpoint(1, "checkpoints/run/0-1.safetensors")
    assert journal.outbox.head(10, 1 << 20)[0].item.transition.step_id.step == 0
    assert journal.events.after("run", 0)[-1].step_completed.step_id.step == 0


def test_a_transaction_that_fails_leaves_nothing_behind(journal: Journal) -> None:
    before = journal.runs.get("run"), sequences(journal)
    bad = Transition(step_id=step_id("run", 5, 0))
    with pytest.raises(sqlite3.IntegrityError):
        journal.episodes.complete(bad, StepCompleted(), Checkpoint(1, "nowhere"))
    assert (journal.runs.get("run"), sequences(journal)) == before
    assert journal.outbox.depth() == 0


def test_a_decision_is_written_once_and_found_again(journal: Journal) -> None:
    step = step_id("run", 0, 0)
    assert journal.episodes.decided(step) is None
    decided = fallback(step, "nobody answered")
    journal.episodes.write_decision(step, decided, None)
    assert journal.episodes.decided(step) == decided
    with pytest.raises(sqlite3.IntegrityError):
        journal.episodes.write_decision(step, fallback(step, "again"), None)


def test_the_first_pin_is_the_one_that_an_episode_keeps(journal: Journal) -> None:
    for step, version in enumerate(("first", "second")):
        name = step_id("run", 0, step)
        journal.episodes.write_decision(name, fallback(name, ""), version)
    again = Beginning("coin", True, "third", SELECTION_MODE_SAMPLED, None)
    event = EpisodeBegan(episode_index=0, first_step=2)
    assert journal.episodes.begin(again, event, "run").policy_version == "first"
    assert event.policy_version == "first"


def test_a_fence_only_grows(journal: Journal) -> None:
    for fence in (4, 9, 7):
        journal.episodes.raise_fence("run", 0, fence)
    again = Beginning("coin", True, None, SELECTION_MODE_SAMPLED, 3)
    assert journal.episodes.begin(again, EpisodeBegan(episode_index=0), "run").fence == 9


def test_a_step_carried_out_again_is_told_once(journal: Journal) -> None:
    name = step_id("run", 0, 0)
    journal.episodes.write_decision(name, fallback(name, "away"), None)
    for _ in range(2):
        journal.episodes.write_execution(DONE, StepDecided(step_id=name))
    told = [event.WhichOneof("event") for event in journal.events.after("run", 0)]
    assert told.count("step_decided") == 1


def test_the_last_step_ends_the_episode_with_its_network(journal: Journal) -> None:
    complete(journal, 0)
    name = step_id("run", 0, 1)
    journal.episodes.write_decision(name, fallback(name, "away"), None)
    end = EpisodeEnd(run_id="run", episode_index=0, termination=TERMINATION_HORIZON, steps=2)
    journal.episodes.complete_last(
        Transition(step_id=name), StepCompleted(step_id=name), end, FinalNetwork("ab" * 32, 7)
    )
    record = journal.episodes.get("run", 0)
    assert record is not None
    assert (record.steps, record.termination, record.network_size) == (2, TERMINATION_HORIZON, 7)
    assert journal.episodes.checkpoint("run", 0) is None
    items = [entry.item.WhichOneof("item") for entry in journal.outbox.head(10, 1 << 20)]
    assert items == ["transition", "transition", "episode_end"]


@pytest.mark.parametrize(
    ("state", "termination"),
    [(RUN_STATE_CANCELLED, TERMINATION_CANCELLED), (RUN_STATE_FAILED, TERMINATION_FAILED)],
)
def test_the_end_of_a_run_ends_the_episode_that_it_is_in(
    journal: Journal, state: int, termination: int
) -> None:
    complete(journal, 0)
    journal.runs.end("run", state, "that is why")  # type: ignore[arg-type]
    end = journal.outbox.head(10, 1 << 20)[-1].item.episode_end
    assert (end.termination, end.steps, end.message) == (termination, 1, "that is why")


@pytest.mark.parametrize("state", [RUN_STATE_CANCELLED, RUN_STATE_FAILED])
def test_a_failed_attempt_that_another_may_follow_leaves_the_episodes_end_to_that(
    journal: Journal, state: int
) -> None:
    complete(journal, 0)
    journal.runs.end("run", state, "that is why", played_again=True)  # type: ignore[arg-type]
    assert journal.events.end_of("run", 0).message == "that is why"
    items = [entry.item.WhichOneof("item") for entry in journal.outbox.head(10, 1 << 20)]
    assert ("episode_end" in items) is (state == RUN_STATE_CANCELLED)


def test_an_abandoned_run_is_cancelled_and_its_episode_abandoned(journal: Journal) -> None:
    journal.runs.end("run", RUN_STATE_CANCELLED, "nobody came", TERMINATION_ABANDONED)
    end = journal.outbox.head(10, 1 << 20)[-1].item.episode_end
    assert (end.termination, end.message) == (TERMINATION_ABANDONED, "nobody came")
    assert journal.events.end_of("run", 0) == end


def test_a_step_is_found_again_as_watchers_were_told_of_it(journal: Journal) -> None:
    for step in range(3):
        complete(journal, step)
    journal.runs.change("run", RUN_STATE_PAUSED, "why")
    decided, completed = journal.events.of_step(step_id("run", 0, 1))
    assert decided.step_id == completed.step_id == step_id("run", 0, 1)
    with pytest.raises(KeyError):
        journal.events.of_step(step_id("run", 0, 3))
    with pytest.raises(KeyError):
        journal.events.end_of("run", 0)


def test_crashes_count_up_until_a_step_is_completed(journal: Journal) -> None:
    assert [journal.runs.count_crash("run") for _ in range(3)] == [1, 2, 3]
    complete(journal, 0)
    assert journal.runs.count_crash("run") == 1


@settings(max_examples=25)
@given(actions=st.lists(st.sampled_from(["pause", "go on", "crash", "step"]), max_size=12))
def test_event_sequences_have_no_gaps_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, actions: list[str]
) -> None:
    journal = Journal(tmp_path_factory.mktemp("journal") / "journal.sqlite3")
    journal.runs.create("run", RunSpec(), RunSpec(), queue_limit=5)
    journal.runs.take("run")
    journal.episodes.begin(BEGINNING, EpisodeBegan(episode_index=0), "run")
    step = 0
    for action in actions:
        if action == "pause":
            journal.runs.change("run", RUN_STATE_PAUSED, "why")
        elif action == "go on":
            journal.runs.change("run", RUN_STATE_RUNNING, "")
        elif action == "crash":
            journal.runs.count_crash("run")
        else:
            complete(journal, step)
            step += 1
    record = journal.runs.get("run")
    assert record is not None
    assert sequences(journal) == list(range(1, record.last_sequence + 1))
    journal.close()


def test_a_watcher_goes_on_after_the_last_sequence_that_it_saw(journal: Journal) -> None:
    everything = journal.events.after("run", 0)
    assert [event.state_changed.state for event in everything[:2]] == [
        RUN_STATE_QUEUED,
        RUN_STATE_RUNNING,
    ]
    assert journal.events.after("run", 1) == everything[1:]
    assert journal.events.after("run", 0, limit=1) == everything[:1]


def test_the_outbox_gives_its_oldest_items_within_limits(journal: Journal) -> None:
    for step in range(5):
        complete(journal, step)
    sizes = [entry.size for entry in journal.outbox.head(5, 1 << 20)]
    assert len(journal.outbox.head(3, 1 << 20)) == 3
    assert len(journal.outbox.head(5, sum(sizes[:3]) - 1)) == 2
    assert len(journal.outbox.head(5, 1)) == 1, "an item that is too large alone must still go"


def test_what_is_refused_is_laid_aside_and_not_dropped(journal: Journal) -> None:
    for step in range(3):
        complete(journal, step)
    first, second, third = journal.outbox.head(3, 1 << 20)
    refusal = Refusal(second.sequence, "TRANSITION_CONFLICT", Status(code=6))
    for _ in range(2):  # an acknowledgement may come twice
        journal.outbox.settle([first.sequence], [refusal])
    assert [entry.sequence for entry in journal.outbox.head(3, 1 << 20)] == [third.sequence]
    assert journal.outbox.refused("run") == [(second.item, "TRANSITION_CONFLICT")]
    record = journal.runs.get("run")
    assert record is not None
    assert (record.outbox_depth, record.refused_items) == (1, 1)


def test_sequences_of_the_outbox_never_come_again(tmp_path: Path, journal: Journal) -> None:
    complete(journal, 0)
    taken = journal.outbox.head(1, 1 << 20)[0].sequence
    journal.outbox.settle([taken])
    complete(journal, 1)
    assert journal.outbox.head(1, 1 << 20)[0].sequence > taken


def write_too_much(database: Database) -> None:
    """Writes a hundred pages in one transaction."""
    with database.transaction() as connection:
        for _ in range(100):
            connection.execute(
                "INSERT INTO outbox (run_id, episode_index, item) VALUES ('r', 0, ?)",
                (bytes(4096),),
            )


def test_a_journal_that_cannot_grow_says_that_the_disk_is_full(tmp_path: Path) -> None:
    database = Database(tmp_path / "journal.sqlite3")
    with database.transaction() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(DiskFull, match="journal"):
        write_too_much(database)
    with database.reading() as connection:
        assert connection.execute("SELECT count(*) FROM outbox").fetchone()[0] == 0
    database.close()


@pytest.mark.parametrize(("version", "age"), [(1, "earlier"), (99, "later")])
def test_a_journal_of_another_version_is_refused_with_what_to_do(
    tmp_path: Path, version: int, age: str
) -> None:
    path = tmp_path / "journal.sqlite3"
    Journal(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    with pytest.raises(SchemaMismatch) as refused:
        Journal(path)
    for word in (age, str(version), "LEYLINE_KASMINA_STATE_DIR"):
        assert word in str(refused.value)


_WRITER = """
import sys
from pathlib import Path
from kasmina.runs.journal import Journal
from leyline.v1.trainer_pb2 import RUN_STATE_PAUSED, RUN_STATE_RUNNING, RunSpec

journal, run_id = Journal(Path(sys.argv[1])), sys.argv[2]
journal.runs.create(run_id, RunSpec(), RunSpec(), queue_limit=99)
journal.runs.take(run_id)
for number in range(50):
    journal.runs.change(run_id, RUN_STATE_PAUSED, f"the {number}th time")
    journal.runs.change(run_id, RUN_STATE_RUNNING, "")
"""


def test_four_workers_write_at_once_and_each_finds_all_that_it_wrote(
    tmp_path: Path, journal: Journal
) -> None:
    command = [sys.executable, "-c", _WRITER, str(tmp_path / "journal.sqlite3")]
    writers = [subprocess.Popen([*command, f"run-{number}"]) for number in range(4)]
    assert [writer.wait() for writer in writers] == [0] * 4
    for number in range(4):
        events = journal.events.after(f"run-{number}", 0)
        assert [event.sequence for event in events] == list(range(1, 103))
        assert events[-2].state_changed.message == "the 49th time"
