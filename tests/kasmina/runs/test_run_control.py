"""Whether a run may go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from google.rpc.status_pb2 import Status

from kasmina.runs import run_control
from kasmina.runs.disk import Disk, DiskFull
from kasmina.runs.episode_log import Beginning
from kasmina.runs.journal import Journal
from kasmina.runs.outbox import Refusal
from kasmina.runs.run_control import RunCancelled, RunControl, RunFailed
from leyline.v1.decision_pb2 import SELECTION_MODE_SAMPLED
from leyline.v1.trainer_pb2 import (
    RUN_STATE_CANCELLED,
    RUN_STATE_PAUSED,
    RUN_STATE_RUNNING,
    EpisodeBegan,
    RunSpec,
)
from leyline.v1.transition_pb2 import EpisodeEnd


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A journal with a run that a worker has."""
    journal = Journal(tmp_path / "journal.sqlite3")
    journal.runs.create("run", RunSpec(), RunSpec(), queue_limit=1)
    journal.runs.take("run")
    yield journal
    journal.close()


@pytest.fixture
def told() -> list[str | None]:
    """What the service was told of the disk."""
    return []


@pytest.fixture
def control(
    journal: Journal, tmp_path: Path, told: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> RunControl:
    """The run's leave to go on, with a disk that has room."""
    monkeypatch.setattr(run_control, "_POLL_S", 0.0)
    disk = Disk(tmp_path, tmp_path / "reserve", min_free_bytes=0)
    return RunControl("run", journal, disk, told.append)


def states(journal: Journal) -> list[tuple[int, str]]:
    """The run's states since the worker took it."""
    events = journal.events.after("run", 2)
    return [(event.state_changed.state, event.state_changed.message) for event in events]


class Reluctant:
    """A write that finds the disk full for a while."""

    def __init__(self, times: int) -> None:
        self.times = times

    def __call__(self) -> str:
        """Raises `DiskFull` as often as it was told to."""
        if self.times:
            self.times -= 1
            raise DiskFull(Path("/somewhere/file"), 2 << 20, 1 << 20)
        return "written"


def test_a_write_that_finds_the_disk_full_is_done_once_there_is_room(
    control: RunControl, journal: Journal, told: list[str | None]
) -> None:
    assert control.persist(Reluctant(times=2)) == "written"
    message = "no room on the disk of /somewhere/file: 1.0 MiB free, 2.0 MiB needed"
    pause = [(RUN_STATE_PAUSED, message), (RUN_STATE_RUNNING, "")]
    assert states(journal) == pause * 2
    assert told == [message, None] * 2


def test_a_run_that_waits_for_room_can_be_cancelled(control: RunControl, journal: Journal) -> None:
    def full_for_ever() -> None:
        journal.runs.request_cancel("run", "enough")
        raise DiskFull(Path("/somewhere"), 1, 0)

    with pytest.raises(RunCancelled, match="enough"):
        control.persist(full_for_ever)
    control.persist(lambda: journal.runs.end("run", RUN_STATE_CANCELLED, "enough"), to_the_end=True)
    assert states(journal)[-1] == (RUN_STATE_CANCELLED, "enough")


def test_a_pause_is_told_once_with_what_it_began_for(control: RunControl, journal: Journal) -> None:
    control.pause("waiting for the policy: no route")
    control.pause("waiting for the policy: no answer")
    control.go_on()
    control.go_on()
    assert states(journal) == [
        (RUN_STATE_PAUSED, "waiting for the policy: no route"),
        (RUN_STATE_RUNNING, ""),
    ]


def test_no_step_begins_once_the_end_was_asked_for(control: RunControl, journal: Journal) -> None:
    control.before_step()
    journal.runs.request_cancel("run", "stop")
    with pytest.raises(RunCancelled, match="stop"):
        control.before_step()


@pytest.fixture
def waiting(journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunControl:
    """The leave of a run that waits for each step to be stored, and has done something."""
    monkeypatch.setattr(run_control, "_PAUSE_AFTER_S", 0.0)
    beginning = Beginning("coin", False, None, SELECTION_MODE_SAMPLED, fence=1)
    journal.episodes.begin(beginning, EpisodeBegan(), "run")
    journal.episodes.end(EpisodeEnd(run_id="run"))
    disk = Disk(tmp_path, tmp_path / "reserve", min_free_bytes=0)
    return RunControl("run", journal, disk, lambda reason: None, waits_for_experience=True)


def meanwhile(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Has something happen while the run sleeps."""
    monkeypatch.setattr("time.sleep", lambda seconds: happens())


def test_a_run_says_that_it_waits_to_be_stored_and_then_goes_on(
    waiting: RunControl, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    meanwhile(monkeypatch, lambda: journal.outbox.settle([1]))
    waiting.before_step()
    told = [message for _, message in states(journal) if message]
    assert told == ["waiting for the experience service to store what the run has done"]
    assert states(journal)[-1] == (RUN_STATE_RUNNING, "")


def test_a_run_that_is_to_be_stored_ends_where_it_is_refused(
    waiting: RunControl, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = Refusal(1, "STALE_FENCE", Status())
    meanwhile(monkeypatch, lambda: journal.outbox.settle([], [refusal]))
    with pytest.raises(RunFailed, match="another trainer has begun the episode since"):
        waiting.before_step()


def test_a_run_that_waits_to_be_stored_can_be_cancelled(
    waiting: RunControl, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    meanwhile(monkeypatch, lambda: journal.runs.request_cancel("run", "enough"))
    with pytest.raises(RunCancelled):
        waiting.before_step()
