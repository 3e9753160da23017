"""Kasmina's journal: the truth about runs, whatever dies. One SQLite file, seen from five sides."""

from __future__ import annotations

from pathlib import Path

from kasmina.runs.archive import Archive
from kasmina.runs.database import Database
from kasmina.runs.episode_log import EpisodeLog
from kasmina.runs.event_log import EventLog
from kasmina.runs.outbox import Outbox
from kasmina.runs.run_log import RunLog


class Journal:
    """The journal at a path.

    Attributes:
        runs: queued, running and ended.
        episodes: with their steps and checkpoints.
        events: what watchers see.
        outbox: what is yet to be acknowledged by the experience service.
        archive: runs that have ended, and are forgotten some day.
    """

    def __init__(self, path: Path) -> None:
        """Opens the journal, or begins it. Raises `DiskFull` or `SchemaMismatch`."""
        self._database = Database(path)
        self.runs = RunLog(self._database)
        self.episodes = EpisodeLog(self._database)
        self.events = EventLog(self._database)
        self.outbox = Outbox(self._database)
        self.archive = Archive(self._database)

    def close(self) -> None:
        """Closes the file."""
        self._database.close()
