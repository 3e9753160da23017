"""Reading what is stored, page by page: memory does not grow with the experience."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import ColumnElement, RowMapping, exists, literal, select, tuple_

from leyline.v1.decision_pb2 import SelectionMode
from leyline.v1.episode_pb2 import EpisodeOrigin
from leyline.v1.experience_pb2 import (
    EpisodeHead,
    EpisodeSummary,
    GetStatisticsResponse,
    ListEpisodesRequest,
    ListEpisodesResponse,
    ReadEpisodesRequest,
    ReadEpisodesResponse,
)
from leyline.v1.policy_pb2 import SlotRequirement
from leyline.v1.transition_pb2 import Termination, Transition
from simic.database import moment
from simic.database.database import Database
from simic.database.paging import row_number
from simic.database.schema import episode_versions, episodes, transitions
from simic.experience import ends, statistics

EPISODES_A_PAGE = 32
TRANSITIONS_A_PAGE = 64
DEFAULT_PAGE = 50


class ExperienceReader:
    """What is stored, for whoever asks. Every method blocks on the disk: call it from a thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self, request: ReadEpisodesRequest) -> Iterator[list[ReadEpisodesResponse]]:
        """Heads, steps and ends of the selected episodes, in order of run, episode and step.

        Each page is a list of its own; no transaction stays open between two of them.
        """
        remaining = request.max_episodes
        last: tuple[str, int] | None = None
        while True:
            page = self._episodes(request, last)
            for row in page:
                yield from self._episode(row, request.policy_version)
                if remaining:
                    remaining -= 1
                    if remaining == 0:
                        return
            if len(page) < EPISODES_A_PAGE:
                return
            last = page[-1]["run_id"], page[-1]["episode_index"]

    def _episodes(
        self, request: ReadEpisodesRequest, last: tuple[str, int] | None
    ) -> list[RowMapping]:
        query = (
            select(episodes)
            .where(episodes.c.episode_index >= request.first_episode, *_conditions(request))
            .order_by(episodes.c.run_id, episodes.c.episode_index)
            .limit(EPISODES_A_PAGE)
        )
        if last is not None:
            query = query.where(
                tuple_(episodes.c.run_id, episodes.c.episode_index)
                > tuple_(literal(last[0]), literal(last[1]))
            )
        with self._database.read() as connection:
            return list(connection.execute(query).mappings())

    def _episode(
        self, row: RowMapping, policy_version: str
    ) -> Iterator[list[ReadEpisodesResponse]]:
        yield [ReadEpisodesResponse(head=_head(row))]
        end = ends.end_of(row)
        step = -1
        while True:
            query = (
                select(transitions.c.step, transitions.c.payload)
                .where(transitions.c.episode_id == row["id"], transitions.c.step > step)
                .order_by(transitions.c.step)
                .limit(TRANSITIONS_A_PAGE)
            )
            if end is not None:
                # What is stored beyond a gap is not of an episode that was given up before it.
                query = query.where(transitions.c.step < end.steps)
            if policy_version:
                query = query.where(transitions.c.policy_version == policy_version)
            with self._database.read() as connection:
                page = connection.execute(query).all()
            if page:
                yield [
                    ReadEpisodesResponse(transition=Transition.FromString(stored.payload))
                    for stored in page
                ]
            if len(page) < TRANSITIONS_A_PAGE:
                break
            step = page[-1].step
        if end is not None:
            yield [ReadEpisodesResponse(end=end)]

    def page(self, request: ListEpisodesRequest) -> ListEpisodesResponse:
        """A page of episodes without their steps, newest first.

        Raises:
            LeylineError: INVALID_ARGUMENT for a token that no page gave.
        """
        limit = request.page_size or DEFAULT_PAGE
        query = (
            select(episodes)
            .where(*_conditions(request))
            .order_by(episodes.c.id.desc())
            .limit(limit + 1)
        )
        if request.page_token:
            query = query.where(episodes.c.id < row_number(request.page_token))
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
        return ListEpisodesResponse(
            episodes=[
                EpisodeSummary(head=_head(row), end=ends.end_of(row)) for row in rows[:limit]
            ],
            next_page_token=str(rows[limit - 1]["id"]) if len(rows) > limit else "",
        )

    def statistics(self, run_id: str) -> GetStatisticsResponse:
        """Counts over one run, or over all where ``run_id`` is empty."""
        with self._database.read() as connection:
            return statistics.count(connection, run_id)


def _conditions(
    request: ReadEpisodesRequest | ListEpisodesRequest,
) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if request.run_id:
        conditions.append(episodes.c.run_id == request.run_id)
    if request.HasField("began_after"):
        conditions.append(episodes.c.began_at >= moment.from_proto(request.began_after))
    if request.HasField("began_before"):
        conditions.append(episodes.c.began_at < moment.from_proto(request.began_before))
    if request.ended_only:
        conditions.append(episodes.c.termination != Termination.TERMINATION_UNSPECIFIED)
    if request.policy_version:
        conditions.append(
            exists().where(
                episode_versions.c.episode_id == episodes.c.id,
                episode_versions.c.policy_version == request.policy_version,
            )
        )
    return conditions


def _head(row: RowMapping) -> EpisodeHead:
    return EpisodeHead(
        run_id=row["run_id"],
        episode_index=row["episode_index"],
        policy=row["policy"],
        policy_version=row["policy_version"],
        began_at=moment.to_proto(row["began_at"]),
        steps=row["stored"],
        spec_fingerprint=row["spec_fingerprint"],
        slots=SlotRequirement(exactly=row["slots"]),
        origin=None if row["origin"] is None else EpisodeOrigin.FromString(row["origin"]),
        mode=SelectionMode.ValueType(row["mode"]),
        horizon=row["horizon"],
    )
