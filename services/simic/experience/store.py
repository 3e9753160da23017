"""The experience store: every transition once, whatever is sent twice, late or by a stranger."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, select, update

from chassis.errors import ErrorCode, LeylineError, Violation
from leyline.v1.decision_pb2 import SelectionMode
from leyline.v1.episode_pb2 import EpisodeOrigin
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
from simic.experience import ends
from simic.experience.checking import CheckedItem, check
from simic.experience.ledger import Ledger
from simic.experience.pinning import Pin, pin


@dataclass(frozen=True)
class Rejection:
    """An item that was not recorded, by its sequence, and why."""

    sequence: int
    error: LeylineError


class GivenUp(Exception):
    """Nobody waits for the answer any more; nothing was stored."""


class ExperienceStore:
    """Episodes and their transitions. Every method blocks on the disk: call it from a thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(
        self, request: BeginEpisodeRequest, is_given_up: Callable[[], bool] = lambda: False
    ) -> BeginEpisodeResponse:
        """Begin an episode, or begin it again: every call raises the fence by one.

        The first call pins the version that decides, as ``simic.experience.pinning`` says, and what
        it says of the episode's origin is kept. Where it hands out an episode of an evaluation,
        that is the origin of the first call that names the pair; a trainer that never does, and
        does not offer to, has not heard of it, and plays an ordinary episode. Where it was
        concluded from silence that the episode is over, it is not: its trainer is back.

        Raises:
            LeylineError: INVALID_ARGUMENT where the episode began with another shape, or must not
                be played in its run; VERSION_NOT_READY, and the episode has not begun.
            GivenUp: ``is_given_up`` said so in the end.
        """
        with self._database.write() as connection:
            row = _find_episode(connection, request.run_id, request.episode_index)
            if row is None:
                fence, next_step, pinned = 1, 0, pin(connection, request)
                _insert_episode(connection, request, pinned)
            else:
                _refuse_another_shape(row, request)
                fence, next_step = row["fence"] + 1, row["next_step"]
                values, pinned = _begun_again(connection, row, request)
                values |= {"fence": fence, "heard_at": moment.now()}
                if row["provisional"]:
                    values |= {**ends.trainers(ends.trainers_end_of(row)), "whole_sequence": None}
                connection.execute(
                    update(episodes).where(episodes.c.id == row["id"]).values(values)
                )
            if is_given_up():
                # Whoever gave up has asked again perhaps, and this fence would be above his.
                raise GivenUp
        return BeginEpisodeResponse(
            fence=fence,
            policy_version=pinned.policy_version,
            mode=pinned.mode,
            next_step=next_step,
            evaluation_pair=pinned.evaluation_pair,
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


def _insert_episode(connection: Connection, request: BeginEpisodeRequest, pinned: Pin) -> None:
    now = moment.now()
    connection.execute(
        insert(episodes).values(
            run_id=request.run_id,
            episode_index=request.episode_index,
            fence=1,
            policy=request.policy,
            follows_registry=request.follows_registry,
            horizon=request.horizon,
            slots=request.slots,
            spec_fingerprint=request.spec_fingerprint,
            began_at=now,
            heard_at=now,
            next_step=0,
            stored=0,
            stored_bytes=0,
            **ends.trainers(None),
            **asdict(pinned),
            **_origin(request, pinned.evaluation_pair),
        )
    )


def _twin(origin: EpisodeOrigin) -> dict[str, object]:
    if not origin.HasField("twin"):
        return {"twin_run_id": None, "twin_episode_index": None}
    twin = origin.twin
    return {"twin_run_id": twin.run_id, "twin_episode_index": twin.episode_index}


def _begun_again(
    connection: Connection, row: RowMapping, request: BeginEpisodeRequest
) -> tuple[dict[str, Any], Pin]:
    """What changes in an episode that begins again, and what it is pinned to."""
    pinned = Pin(
        row["policy_version"], SelectionMode.ValueType(row["mode"]), row["evaluation_pair"]
    )
    if pinned.evaluation_pair is None or row["origin"] is not None:
        return {}, pinned
    if request.offers_evaluation or request.origin.HasField("evaluation_pair"):
        return _origin(request, pinned.evaluation_pair), pinned
    pinned = pin(connection, request)
    return {**asdict(pinned), **_origin(request, None)}, pinned


def _origin(request: BeginEpisodeRequest, pair: int | None) -> dict[str, Any]:
    """What is kept of the origin that a call gives: nothing, where it is not that of the pair."""
    origin = request.origin
    given = origin.evaluation_pair if origin.HasField("evaluation_pair") else None
    known = request.HasField("origin") and given == pair
    return {
        "origin": origin.SerializeToString() if known else None,
        "held_out": origin.situation.held_out,
        **_twin(origin),
    }


def _refuse_another_shape(row: RowMapping, request: BeginEpisodeRequest) -> None:
    changed = [
        Violation(name, f"the episode began with {row[name]}")
        for name in ("horizon", "slots", "spec_fingerprint")
        if row[name] != getattr(request, name)
    ]
    if changed:
        raise LeylineError(ErrorCode.INVALID_ARGUMENT, violations=changed)
