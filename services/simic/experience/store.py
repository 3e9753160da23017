"""The experience store: every transition once, whatever is sent twice, late or by a stranger."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, insert, select, update

from chassis.errors import ErrorCode, LeylineError, Violation
from leyline.v1.decision_pb2 import SelectionMode
from leyline.v1.experience_pb2 import (
    BeginEpisodeRequest,
    BeginEpisodeResponse,
    ExperienceItem,
    GetIngestCursorResponse,
)
from leyline.v1.transition_pb2 import Termination
from simic.database import moment
from simic.database.database import Database
from simic.database.schema import episodes
from simic.experience.checking import CheckedItem, check
from simic.experience.ledger import Ledger
from simic.policies import registry


@dataclass(frozen=True)
class Rejection:
    """An item that was not recorded, by its sequence, and why."""

    sequence: int
    error: LeylineError


class ExperienceStore:
    """Episodes and their transitions. Every method blocks on the disk: call it from a thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, request: BeginEpisodeRequest) -> BeginEpisodeResponse:
        """Begin an episode, or begin it again: every call raises the fence by one.

        The first call pins the version that is active then, where the policy follows the registry;
        one that policy servers have refused is passed over. What the first call says of the
        episode's origin is kept.

        Raises:
            LeylineError: INVALID_ARGUMENT where the episode began with another shape.
        """
        with self._database.write() as connection:
            row = _find_episode(connection, request.run_id, request.episode_index)
            if row is None:
                pinned = registry.version_to_pin(connection) if request.follows_registry else None
                _insert_episode(connection, request, pinned)
                return BeginEpisodeResponse(
                    fence=1, policy_version=pinned, mode=request.mode, next_step=0
                )
            _refuse_another_shape(row, request)
            fence = row["fence"] + 1
            connection.execute(
                update(episodes).where(episodes.c.id == row["id"]).values(fence=fence)
            )
            return BeginEpisodeResponse(
                fence=fence,
                policy_version=row["policy_version"],
                mode=SelectionMode.ValueType(row["mode"]),
                next_step=row["next_step"],
            )

    def record(self, items: Iterable[ExperienceItem]) -> list[Rejection | None]:
        """Check and store ``items``."""
        return self.store(check(items))

    def store(self, items: Sequence[CheckedItem]) -> list[Rejection | None]:
        """Store ``items`` in one commit; in the order of the items, why one was not stored.

        None stands for an item that is on disk now, or was before. Items of different senders may
        come together: nothing of one touches the others.

        Raises:
            LeylineError: DISK_FULL. Nothing was stored.
        """
        valid = [each for each in items if not each.broken]
        if not valid:
            return [_broken(each) for each in items]
        with self._database.write() as connection:
            ledger = Ledger.open(connection, valid)
            outcomes = [_enter(ledger, each) for each in items]
            ledger.close()
        return outcomes

    def cursor(self, run_id: str, episode_index: int) -> GetIngestCursorResponse:
        """How much of an episode is stored.

        Raises:
            LeylineError: EPISODE_NOT_FOUND.
        """
        with self._database.read() as connection:
            row = _find_episode(connection, run_id, episode_index)
        if row is None:
            raise LeylineError(
                ErrorCode.EPISODE_NOT_FOUND, run_id=run_id, episode_index=episode_index
            )
        return GetIngestCursorResponse(
            next_step=row["next_step"],
            fence=row["fence"],
            termination=Termination.ValueType(row["termination"]),
            policy_version=row["policy_version"],
        )


def _enter(ledger: Ledger, checked: CheckedItem) -> Rejection | None:
    if checked.broken:
        return _broken(checked)
    try:
        ledger.enter(checked)
    except LeylineError as error:
        return Rejection(checked.item.sequence, error)
    return None


def _broken(checked: CheckedItem) -> Rejection:
    error = LeylineError(ErrorCode.INVALID_ARGUMENT, violations=checked.broken)
    return Rejection(checked.item.sequence, error)


def _find_episode(connection: Connection, run_id: str, episode_index: int) -> RowMapping | None:
    return (
        connection.execute(
            select(episodes).where(
                episodes.c.run_id == run_id, episodes.c.episode_index == episode_index
            )
        )
        .mappings()
        .one_or_none()
    )


def _insert_episode(
    connection: Connection, request: BeginEpisodeRequest, pinned: str | None
) -> None:
    connection.execute(
        insert(episodes).values(
            run_id=request.run_id,
            episode_index=request.episode_index,
            fence=1,
            policy=request.policy,
            follows_registry=request.follows_registry,
            policy_version=pinned,
            mode=request.mode,
            horizon=request.horizon,
            slots=request.slots,
            spec_fingerprint=request.spec_fingerprint,
            origin=request.origin.SerializeToString() if request.HasField("origin") else None,
            held_out=request.origin.situation.held_out,
            began_at=moment.now(),
            next_step=0,
            termination=Termination.TERMINATION_UNSPECIFIED,
        )
    )


def _refuse_another_shape(row: RowMapping, request: BeginEpisodeRequest) -> None:
    changed = [
        Violation(name, f"the episode began with {row[name]}")
        for name in ("horizon", "slots", "spec_fingerprint")
        if row[name] != getattr(request, name)
    ]
    if changed:
        raise LeylineError(ErrorCode.INVALID_ARGUMENT, violations=changed)
