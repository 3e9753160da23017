"""What is kept of runs that have ended, and what a crash has left is swept up."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kasmina.neighbours import step_id

from kasmina.runs.decider import fallback
from kasmina.runs.episode_log import Beginning, Checkpoint
from kasmina.runs.journal import Journal
from kasmina.runs.retention import Retention
from kasmina.runs.state_directory import StateDirectory
from leyline.v1.decision_pb2 import SELECTION_MODE_SAMPLED
from leyline.v1.episode_pb2 import EpisodeReference, Fork
from leyline.v1.trainer_pb2 import (
    RUN_STATE_FAILED,
    EpisodeBegan,
    GrowthSpec,
    RunSpec,
    StepCompleted,
    StepDecided,
)
from leyline.v1.transition_pb2 import Execution, Transition

TABLES = ("runs", "episodes", "steps", "checkpoints", "events", "outbox", "refused")


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    """A state folder."""
    return StateDirectory.open(tmp_path)


@pytest.fixture
def journal(state: StateDirectory) -> Iterator[Journal]:
    """Its journal."""
    journal = Journal(state.journal)
    yield journal
    journal.close()


def start(journal: Journal, run_id: str, spec: RunSpec | None = None) -> None:
    """Queues a run and has a worker take it."""
    spec = spec or RunSpec(episodes=1)
    journal.runs.create(run_id, spec, spec, queue_limit=99)
    journal.runs.take(run_id)


def play(state: StateDirectory, journal: Journal, run_id: str) -> None:
    """One step of an episode, with the files that it leaves."""
    beginning = Beginning("coin", False, None, SELECTION_MODE_SAMPLED, None)
    journal.episodes.begin(beginning, EpisodeBegan(episode_index=0), run_id)
    name = step_id(run_id, 0, 0)
    journal.episodes.write_decision(name, fallback(name, "away"), None)
    journal.episodes.write_execution(Execution(), StepDecided(step_id=name))
    checkpoint = state.checkpoint(run_id, 0, 1)
    journal.episodes.complete(
        Transition(step_id=name), StepCompleted(step_id=name), Checkpoint(1, str(checkpoint))
    )
    for path in (checkpoint, state.network(run_id, 0), state.network(run_id, 0).with_suffix(".x")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def send_all(journal: Journal) -> None:
    """Empties the outbox."""
    journal.outbox.settle([entry.sequence for entry in journal.outbox.head(1000, 1 << 30)])


def end(journal: Journal, *run_ids: str) -> None:
    """Ends runs, one after the other."""
    for run_id in run_ids:
        journal.runs.end(run_id, RUN_STATE_FAILED, "enough")


def kept(journal: Journal) -> list[str]:
    """Runs that there are, oldest first."""
    return [run.run_id for run in reversed(journal.runs.page(None, 100))]


def test_a_forgotten_run_leaves_nothing_in_the_journal_or_the_folder(
    state: StateDirectory, journal: Journal
) -> None:
    for run_id in ("old", "new"):
        start(journal, run_id)
        play(state, journal, run_id)
        end(journal, run_id)
    send_all(journal)
    Retention(state, journal, keep_runs=1, keep_days=None).forget()
    assert kept(journal) == ["new"]
    with sqlite3.connect(state.journal) as connection:
        for table in TABLES:
            query = f"SELECT count(*) FROM {table} WHERE run_id = 'old'"
            assert connection.execute(query).fetchone() == (0,), table
    assert [path.name for path in state.networks.iterdir()] == ["new"]
    assert [path.name for path in state.all_checkpoints.iterdir()] == ["new"]


def test_the_runs_that_ended_last_are_kept_whenever_they_began(
    state: StateDirectory, journal: Journal
) -> None:
    for run_id in ("first", "second", "third", "going on"):
        start(journal, run_id)
    end(journal, "third", "first", "second")
    Retention(state, journal, keep_runs=2, keep_days=None).forget()
    assert kept(journal) == ["first", "second", "going on"]


def test_a_run_is_kept_until_the_experience_service_has_all_of_it(
    state: StateDirectory, journal: Journal
) -> None:
    start(journal, "unsent")
    play(state, journal, "unsent")
    end(journal, "unsent")
    retention = Retention(state, journal, keep_runs=0, keep_days=None)
    retention.forget()
    assert kept(journal) == ["unsent"]
    send_all(journal)
    retention.forget()
    assert kept(journal) == []


@pytest.mark.parametrize(
    "referring",
    [
        RunSpec(twin_run="needed"),
        RunSpec(fork=Fork(parent=EpisodeReference(run_id="needed"))),
        RunSpec(growth=GrowthSpec(topology=EpisodeReference(run_id="needed"))),
    ],
    ids=["twin", "fork", "topology"],
)
def test_a_run_is_kept_while_one_that_refers_to_it_has_not_ended(
    state: StateDirectory, journal: Journal, referring: RunSpec
) -> None:
    start(journal, "needed")
    start(journal, "referring", referring)
    end(journal, "needed")
    retention = Retention(state, journal, keep_runs=0, keep_days=None)
    retention.forget()
    assert kept(journal) == ["needed", "referring"]
    end(journal, "referring")
    retention.forget()
    assert kept(journal) == []


def test_a_run_is_forgotten_when_its_days_are_over(
    state: StateDirectory, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(journal, "run")
    end(journal, "run")
    retention = Retention(state, journal, keep_runs=10, keep_days=2)
    retention.forget()
    assert kept(journal) == ["run"]
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 49 * 3600 * 10**9)
    retention.forget()
    assert kept(journal) == []


def test_what_a_crash_has_left_is_swept_up_and_what_is_needed_stays(
    state: StateDirectory, journal: Journal
) -> None:
    for run_id in ("ended", "going on", "kept"):
        start(journal, run_id, RunSpec(keep_checkpoints=run_id == "kept"))
        play(state, journal, run_id)
        with state.run_lock(run_id, 0.0):
            pass
    end(journal, "ended", "kept")
    for folder in (state.checkpoints("unknown"), state.networks / "unknown"):
        folder.mkdir(parents=True)
    half_written = [
        state.checkpoints("going on") / ".0-2.safetensors.77.partial",
        state.networks / "ended" / ".1.safetensors.77.partial",
    ]
    for path in half_written:
        path.touch()
    Retention(state, journal, keep_runs=10, keep_days=None).sweep()
    assert sorted(path.name for path in state.all_checkpoints.iterdir()) == ["going on", "kept"]
    assert sorted(path.name for path in state.networks.iterdir()) == ["ended", "going on", "kept"]
    assert [path.name for path in state.locks.iterdir()] == ["going on"]
    assert not any(path.exists() for path in half_written)
    assert state.checkpoint("going on", 0, 1).exists()
