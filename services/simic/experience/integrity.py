"""Whether what is stored is what was stored, looked at after a stop that was not a clean one.

Beside SQLite's own check of its file: each payload has its digest, each episode's columns say what
is stored of it, the counts agree, each artifact is the one that it is named after. All is read
once, in small pieces, while the service serves.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from threading import Event

from sqlalchemy import Connection, RowMapping, Select, delete, exists, func, insert, select
from sqlalchemy.exc import DatabaseError, SQLAlchemyError

from chassis.errors import LeylineError
from chassis.logging import get_logger
from leyline.v1.experience_pb2 import IntegrityState
from simic.database import moment
from simic.database.copying import Stopped
from simic.database.database import Database
from simic.database.schema import (
    artifacts,
    episode_versions,
    episodes,
    openings,
    run_actions,
    transitions,
)
from simic.database.soundness import file_findings
from simic.experience.ledger import ROW_BYTES
from simic.experience.sparing import sparing

EPISODES_A_PIECE = 16
STEPS_AT_ONCE = 500
FINDINGS = 100
"""Findings after which it is clear enough."""
RETRY_S = 5.0

UNSPECIFIED = IntegrityState.INTEGRITY_STATE_UNSPECIFIED
CHECKING = IntegrityState.INTEGRITY_STATE_CHECKING
SOUND = IntegrityState.INTEGRITY_STATE_SOUND
DAMAGED = IntegrityState.INTEGRITY_STATE_DAMAGED

_log = get_logger(__name__)


class Integrity:
    """What is known of the database's integrity. Run ``run`` as a task, once it is open.

    Attributes:
        state: as GetStatistics says it.
        findings: what is wrong, for people.
    """

    def __init__(self, database: Database) -> None:
        self.state: IntegrityState.ValueType = UNSPECIFIED
        self.findings: list[str] = []
        self._database = database
        self._stopped = Event()

    def open(self) -> None:
        """Note that the database is open, and whether it was closed in good order. Blocks."""
        with self._database.read() as connection:
            left_open = connection.execute(select(openings).limit(1)).first() is not None
        self.state = CHECKING if left_open else UNSPECIFIED
        try:
            with self._database.write() as connection:
                connection.execute(insert(openings).values(opened_at=moment.now()))
        except LeylineError as error:
            # With a full disk, what is stored can still be read.
            _log.warning("not noted that the database is open", reason=str(error))

    def close(self) -> None:
        """Note that the database was closed in good order, and that all is known of it. Blocks."""
        if self.state in (CHECKING, DAMAGED):
            return  # It is looked at again.
        try:
            with self._database.write() as connection:
                connection.execute(delete(openings))
        except (LeylineError, SQLAlchemyError) as error:
            _log.warning("not noted that the database was closed", reason=str(error))

    async def run(self) -> None:
        """Look at everything, where the last stop was not a clean one."""
        if self.state != CHECKING:
            return
        _log.info("checking the database: it was not closed in good order, or is a restored one")
        started = time.monotonic()
        try:
            for check in (self._file, self._episodes, self._counts, self._artifacts):
                await self._complete(check)
        finally:
            self._stopped.set()
        self.state = DAMAGED if self.findings else SOUND
        duration_s = round(time.monotonic() - started, 3)
        log = _log.error if self.findings else _log.info
        log("database checked", sound=not self.findings, duration_s=duration_s)

    async def _complete(self, check: Callable[[int], int | None]) -> None:
        """Let a check do piece after piece, each from where the one before it ended."""
        after: int | None = 0
        while after is not None and len(self.findings) < FINDINGS:
            try:
                after = await sparing(partial(check, after))
            except LeylineError as error:
                _log.warning("the check waits", reason=str(error))
                await asyncio.sleep(RETRY_S)

    def _found(self, what: str) -> None:
        self.findings.append(what)
        _log.error("damage found", what=what)

    def _file(self, _after: int) -> None:
        try:
            findings = file_findings(self._database.url, FINDINGS, self._stopped.is_set)
        except Stopped:
            return
        for finding in findings:
            self._found(finding)

    def _episodes(self, after: int) -> int | None:
        last = after + EPISODES_A_PIECE
        try:
            with self._database.read() as connection:
                newest = connection.execute(select(func.max(episodes.c.id))).scalar_one() or 0
                rows = connection.execute(
                    select(episodes).where(episodes.c.id > after, episodes.c.id <= last)
                )
                for row in rows.mappings().all():
                    self._episode(connection, row)
        except DatabaseError as error:
            self._found(f"episodes with row numbers {after + 1} to {last}: {error.orig}")
            return last
        return last if last < newest else None

    def _episode(self, connection: Connection, row: RowMapping) -> None:
        name = f"episode {row['episode_index']} of run {row['run_id']}"
        steps, size, without_gap = 0, 0, 0
        decided: Counter[str] = Counter()
        stored = connection.execute(
            select(*transitions.c["step", "policy_version", "digest", "payload"])
            .where(transitions.c.episode_id == row["id"])
            .order_by(transitions.c.step)
            .execution_options(yield_per=STEPS_AT_ONCE)
        )
        for step in stored:
            steps += 1
            size += len(step.payload) + ROW_BYTES
            without_gap += step.step == without_gap
            if step.policy_version is not None:
                decided[step.policy_version] += 1
            if hashlib.sha256(step.payload).digest() != step.digest:
                self._found(f"step {step.step} of {name} is not what was stored")
        if (row["stored"], row["stored_bytes"]) != (steps, size):
            self._found(f"{name} has {steps} steps stored, and counts {row['stored']}")
        counted = connection.execute(
            select(episode_versions.c.policy_version, episode_versions.c.steps).where(
                episode_versions.c.episode_id == row["id"]
            )
        )
        if dict(counted.tuples().all()) != decided:
            self._found(f"{name} has its steps by version counted wrongly")
        if row["forgotten_at"] is not None:
            return
        if row["next_step"] != without_gap:
            self._found(
                f"{name} has {without_gap} steps without a gap, and counts {row['next_step']}"
            )
        is_whole = bool(row["termination"]) and row["steps"] == without_gap
        if (row["whole_sequence"] is not None) != is_whole:
            self._found(f"{name} counts as {'not ' if is_whole else ''}whole, and is the opposite")

    def _counts(self, _after: int) -> None:
        lost = ~exists().where(episodes.c.id == transitions.c.episode_id)
        by_episodes = select(episodes.c.run_id, func.sum(episodes.c.stored))
        by_actions = select(run_actions.c.run_id, func.sum(run_actions.c.steps))
        try:
            with self._database.read() as connection:
                strays = connection.execute(
                    select(func.count()).select_from(transitions).where(lost)
                ).scalar_one()
                stored = _by_run(connection, by_episodes.group_by(episodes.c.run_id))
                counted = _by_run(connection, by_actions.group_by(run_actions.c.run_id))
        except DatabaseError as error:
            self._found(f"the counts: {error.orig}")
            return
        if strays:
            self._found(f"{strays} steps are of no episode")
        for run in sorted(run for run in stored | counted if stored[run] != counted[run]):
            self._found(f"run {run} has {stored[run]} steps stored, and counts {counted[run]}")

    def _artifacts(self, after: int) -> int | None:
        query = select(artifacts).order_by(artifacts.c.sha256).limit(1).offset(after)
        try:
            with self._database.read() as connection:
                row = connection.execute(query).one_or_none()
        except DatabaseError as error:
            self._found(f"artifact number {after + 1}: {error.orig}")
            return after + 1
        if row is None:
            return None
        if hashlib.sha256(row.data).hexdigest() != row.sha256 or len(row.data) != row.size:
            self._found(f"the artifact {row.sha256} is not what was stored")
        return after + 1


def _by_run(connection: Connection, query: Select[tuple[str, int]]) -> Counter[str]:
    return Counter({run: int(steps) for run, steps in connection.execute(query) if steps})
