"""Stored episodes, each whole, over breaks of connection."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from leyline.client.patience import Patience
from leyline.error import ServiceError
from leyline.v1.experience_pb2 import EpisodeHead, ReadEpisodesResponse
from leyline.v1.transition_pb2 import EpisodeEnd, Transition

EpisodeKey: TypeAlias = tuple[str, int]
"""A run, and the index of an episode in it."""


@dataclass
class Episode:
    """An episode as it is stored."""

    head: EpisodeHead
    steps: list[Transition] = field(default_factory=list)
    """In order; a step that has not come in yet leaves a gap."""
    end: EpisodeEnd | None = None
    """How it ended; None while it has not."""

    @property
    def key(self) -> EpisodeKey:
        """What names it for ever."""
        return self.head.run_id, self.head.episode_index

    def __str__(self) -> str:
        return f"run {self.head.run_id}, episode {self.head.episode_index}"


async def read_episodes(
    call: Callable[[], AsyncIterable[ReadEpisodesResponse]], patience: Patience
) -> AsyncIterator[Episode]:
    """Yield the episodes of a call, each once, calling again after each break."""
    place = _Place()
    while True:
        patience.calls()
        try:
            async for episode in _grouped(call()):
                patience.hears()
                if place.goes_on_with(episode.key):
                    yield episode
            return
        except ServiceError as error:
            await patience.after(error)


async def _grouped(records: AsyncIterable[ReadEpisodesResponse]) -> AsyncIterator[Episode]:
    episode: Episode | None = None
    async for record in records:
        if record.HasField("head"):
            if episode is not None:
                yield episode
            episode = Episode(record.head)
            continue
        assert episode is not None
        if record.HasField("transition"):
            episode.steps.append(record.transition)
        else:
            episode.end = record.end
    if episode is not None:
        yield episode


class _Place:
    """How far a reading has come: a run that was left is complete, and episodes grow in the run."""

    def __init__(self) -> None:
        self._left: set[str] = set()
        self._last: EpisodeKey | None = None

    def goes_on_with(self, key: EpisodeKey) -> bool:
        """Whether an episode is one that has not been read before."""
        if key[0] in self._left:
            return False
        if self._last is not None:
            if key[0] == self._last[0] and key[1] <= self._last[1]:
                return False
            if key[0] != self._last[0]:
                self._left.add(self._last[0])
        self._last = key
        return True
