"""The SQLite file under the journal: its tables, and transactions that last.

The service and its workers have it open at the same time. A transaction that has returned is on the
disk.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kasmina.runs.disk import writing

SCHEMA_VERSION = 2

_PATIENCE_S = 30.0

_SCHEMA = """
CREATE TABLE runs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL UNIQUE,
    requested BLOB NOT NULL,           -- RunSpec as asked for
    spec BLOB NOT NULL,                -- RunSpec with its defaults
    compute BLOB,                      -- Compute; NULL until a worker has taken the run
    driven INTEGER NOT NULL,           -- whether a caller of DriveEpisode decides
    state INTEGER NOT NULL,            -- RunState
    status_message TEXT NOT NULL,
    created_at INTEGER NOT NULL,       -- nanoseconds since 1970, as all times here
    started_at INTEGER,
    ended_at INTEGER,
    cancel_reason TEXT,                -- set when somebody has asked for the end
    last_sequence INTEGER NOT NULL,    -- of the newest event
    crashes INTEGER NOT NULL,          -- of the worker, since a step was last completed
    crashed_after INTEGER NOT NULL     -- steps completed at the latest crash
) STRICT;
CREATE INDEX runs_by_state ON runs (state, number);

CREATE TABLE episodes (
    run_id TEXT NOT NULL REFERENCES runs (run_id),
    episode_index INTEGER NOT NULL,
    origin BLOB NOT NULL,              -- EpisodeOrigin
    policy TEXT NOT NULL,              -- as GetPolicyInfo named it; empty where the policy was away
    follows_registry INTEGER NOT NULL,
    policy_version TEXT,               -- the pin; NULL until a decision where nobody gave one
    mode INTEGER NOT NULL,             -- SelectionMode
    fence INTEGER,                     -- newest that BeginEpisode gave; NULL until it has
    steps INTEGER NOT NULL,            -- completed
    termination INTEGER NOT NULL,      -- Termination; 0 while the episode goes on
    network_sha256 TEXT,               -- of the final network; NULL where there is none
    network_size INTEGER,
    PRIMARY KEY (run_id, episode_index)
) STRICT, WITHOUT ROWID;

CREATE TABLE steps (
    run_id TEXT NOT NULL,
    episode_index INTEGER NOT NULL,
    step INTEGER NOT NULL,
    decision BLOB NOT NULL,            -- Decision
    decider INTEGER NOT NULL,          -- Decider
    fallback_reason TEXT,
    execution BLOB,                    -- Execution; NULL until the decision was carried out
    completed_at INTEGER,              -- NULL until the interval was trained
    PRIMARY KEY (run_id, episode_index, step),
    FOREIGN KEY (run_id, episode_index) REFERENCES episodes (run_id, episode_index)
) STRICT, WITHOUT ROWID;

CREATE TABLE checkpoints (
    run_id TEXT NOT NULL,
    episode_index INTEGER NOT NULL,
    step INTEGER NOT NULL,             -- the step that the episode goes on with
    path TEXT NOT NULL,                -- within the state folder
    PRIMARY KEY (run_id, episode_index),
    FOREIGN KEY (run_id, episode_index) REFERENCES episodes (run_id, episode_index)
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    run_id TEXT NOT NULL REFERENCES runs (run_id),
    sequence INTEGER NOT NULL,         -- from 1, without gaps
    event BLOB NOT NULL,               -- WatchRunResponse
    PRIMARY KEY (run_id, sequence)
) STRICT, WITHOUT ROWID;

CREATE TABLE outbox (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL,
    episode_index INTEGER NOT NULL,
    item BLOB NOT NULL                 -- ExperienceItem without sequence and fence
) STRICT;
CREATE INDEX outbox_by_run ON outbox (run_id);

CREATE TABLE refused (
    sequence INTEGER PRIMARY KEY,      -- that it had in the outbox
    run_id TEXT NOT NULL,
    episode_index INTEGER NOT NULL,
    item BLOB NOT NULL,
    reason TEXT NOT NULL,
    error BLOB NOT NULL,               -- google.rpc.Status
    refused_at INTEGER NOT NULL
) STRICT;
CREATE INDEX refused_by_run ON refused (run_id);
"""


class SchemaMismatch(Exception):
    """The file was written by another version."""

    def __init__(self, path: Path, version: int) -> None:
        age = "a later" if version > SCHEMA_VERSION else "an earlier"
        super().__init__(
            f"{path} was written by {age} version of Kasmina: it has schema version {version}, this"
            f" one reads {SCHEMA_VERSION} and converts none. Use the version that wrote it, or set"
            " LEYLINE_KASMINA_STATE_DIR to another folder"
        )


class Database:
    """One connection to the file, which the threads of a process share one at a time."""

    def __init__(self, path: Path) -> None:
        """Opens the file, and makes its tables where there are none. Raises `DiskFull` or
        `SchemaMismatch`.
        """
        self._path = path
        self._lock = threading.RLock()
        with writing(path):
            self._connection = sqlite3.connect(
                path, timeout=_PATIENCE_S, isolation_level=None, check_same_thread=False
            )
            self._connection.row_factory = sqlite3.Row
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("PRAGMA foreign_keys = ON")
            self._create()

    def close(self) -> None:
        """Closes the connection."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All that is written inside, or nothing of it. Raises `DiskFull`."""
        with self._lock, writing(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                # A full disk may have rolled back by itself.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """One consistent view for all that is read inside."""
        with self._lock:
            self._connection.execute("BEGIN DEFERRED")
            try:
                yield self._connection
            finally:
                self._connection.execute("ROLLBACK")

    def _create(self) -> None:
        version = self._version()
        if version == 0:
            with self.transaction() as connection:
                # Looked at again behind the lock: another process may open the file at once.
                if self._version() == 0:
                    for statement in _SCHEMA.split(";\n"):
                        connection.execute(statement)
                    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        elif version != SCHEMA_VERSION:
            self._connection.close()
            raise SchemaMismatch(self._path, version)

    def _version(self) -> int:
        return int(self._connection.execute("PRAGMA user_version").fetchone()[0])
