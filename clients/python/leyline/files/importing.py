"""Puts episodes of a file into a service: what is new, and nothing twice."""

from __future__ import annotations

from dataclasses import dataclass, field

from leyline.client import Episode, Experience
from leyline.client.episodes import EpisodeKey
from leyline.error import ServiceError, from_status
from leyline.files.columns import name_of
from leyline.v1.experience_pb2 import BeginEpisodeRequest, EpisodeHead, ExperienceItem
from leyline.v1.transition_pb2 import EpisodeEnd, Termination

ITEMS_A_MESSAGE = 256
BYTES_A_MESSAGE = 1 << 20

_ABOVE_EVERY_INDEX = 1 << 32


@dataclass(frozen=True)
class Refusal:
    """An episode that was not imported, or not whole."""

    run_id: str
    episode_index: int
    reason: str
    """Machine-readable: of the catalogue in docs/errors.md, or `EPISODE_CONFLICT`."""
    message: str
    """For people."""


@dataclass
class Report:
    """What came of an import."""

    imported: int = 0
    """Episodes of which something was new."""
    known: int = 0
    """Episodes of which everything was there already."""
    steps: int = 0
    """Steps that were new."""
    refused: list[Refusal] = field(default_factory=list)


class _Conflict(Exception):
    """What is stored of an episode is not what the file has."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Importer:
    """Takes episodes one by one; `finish` sends what still waits.

    What is there already of an episode is compared first. Where it says something else the episode
    stays as it is, its fence too: somebody may be writing it. What an import that broke off has
    left is completed. The comparison is exact: a file has copies of steps, and one that was done at
    another time, which a trainer may send again, is not the same.
    """

    def __init__(self, experience: Experience, *, dry_run: bool = False) -> None:
        """Import into a service, or only find out what an import would do."""
        self._experience = experience
        self._dry_run = dry_run
        self._waiting: list[tuple[EpisodeKey, ExperienceItem]] = []
        self._bytes = 0
        self._refused: set[EpisodeKey] = set()
        self._free_from: dict[str, int] = {}
        self.report = Report()

    async def take(self, episode: Episode) -> None:
        """Import the next episode.

        Raises:
            ServiceError: the service is away, or can take nothing at all.
        """
        try:
            new = await self._what_is_new(episode)
            if new is None:
                self.report.known += 1
            elif self._dry_run:
                self.report.imported += 1
                self.report.steps += len(new.steps)
            else:
                begun = await self._experience.begin(_beginning(episode.head))
                self.report.imported += 1
                await self._send(new, begun.fence)
        except _Conflict as conflict:
            self._refuse(episode.key, conflict.reason, str(conflict))
        except ServiceError as error:
            if error.code != "INVALID_ARGUMENT":
                raise
            self._refuse(episode.key, error.reason or error.code, str(error))

    async def finish(self) -> None:
        """Send what waits."""
        if not self._waiting:
            return
        items = [item for _, item in self._waiting]
        for sequence, item in enumerate(items, 1):
            item.sequence = sequence
        rejected = await self._experience.record(items)
        self.report.steps += sum(item.HasField("transition") for item in items)
        for rejection in rejected:
            key, item = self._waiting[rejection.sequence - 1]
            self.report.steps -= item.HasField("transition")
            if key not in self._refused:
                self.report.imported -= 1
                error = from_status(rejection.error)
                self._refuse(key, error.reason or error.code, str(error))
        self._waiting = []
        self._bytes = 0

    async def _what_is_new(self, episode: Episode) -> Episode | None:
        """Return the episode as far as it is not stored; None where all of it is.

        Raises:
            _Conflict: something else is stored.
        """
        if not await self._has(episode):
            return episode
        await self.finish()  # a file may have one episode in two places
        stored = await self._experience.episode(*episode.key)
        return episode if stored is None else _difference(episode, stored)

    async def _has(self, episode: Episode) -> bool:
        """Whether the service has the episode. Of a run that is new to it, it has none but those
        that came before in the file.
        """
        run_id, index = episode.key
        if run_id not in self._free_from:
            is_new = (await self._experience.statistics(run_id)).episodes == 0
            self._free_from[run_id] = 0 if is_new else _ABOVE_EVERY_INDEX
        if index >= self._free_from[run_id]:
            self._free_from[run_id] = index + 1
            return False
        return await self._experience.cursor(run_id, index) is not None

    async def _send(self, episode: Episode, fence: int) -> None:
        items = [ExperienceItem(fence=fence, transition=step) for step in episode.steps]
        if episode.end is not None:
            items.append(ExperienceItem(fence=fence, episode_end=episode.end))
        for item in items:
            size = item.ByteSize()
            if len(self._waiting) == ITEMS_A_MESSAGE or self._bytes + size > BYTES_A_MESSAGE:
                await self.finish()
            self._waiting.append((episode.key, item))
            self._bytes += size

    def _refuse(self, key: EpisodeKey, reason: str, message: str) -> None:
        self._refused.add(key)
        self.report.refused.append(Refusal(*key, reason, message))


def rename(episode: Episode, run_id: str) -> None:
    """Put an episode into another run. What refers to it from elsewhere is not followed."""
    episode.head.run_id = run_id
    for step in episode.steps:
        for step_id in (step.step_id, step.snapshot.step_id, step.next_snapshot.step_id):
            step_id.run_id = run_id
    if episode.end is not None:
        episode.end.run_id = run_id


def _beginning(head: EpisodeHead) -> BeginEpisodeRequest:
    """Return what begins an episode elsewhere. Its version is none of that registry's."""
    return BeginEpisodeRequest(
        run_id=head.run_id,
        episode_index=head.episode_index,
        policy=head.policy,
        follows_registry=False,
        mode=head.mode,
        horizon=head.horizon,
        slots=head.slots.exactly,
        spec_fingerprint=head.spec_fingerprint,
        origin=head.origin if head.HasField("origin") else None,
    )


def _difference(episode: Episode, stored: Episode) -> Episode | None:
    there = {step.step_id.step: step for step in stored.steps}
    new = []
    for step in episode.steps:
        known = there.get(step.step_id.step)
        if known is None:
            new.append(step)
        elif known != step:
            at = step.step_id.step
            raise _Conflict("TRANSITION_CONFLICT", f"step {at} is stored with another content")
    if stored.end is not None:
        _check_end(episode, stored.end)
    end = episode.end if stored.end is None else None
    if not new and end is None:
        return None
    if stored.end is None:
        _check_beginning(episode.head, stored, is_same=len(new) < len(episode.steps))
    return Episode(episode.head, new, end)


def _check_end(episode: Episode, end: EpisodeEnd) -> None:
    """Check that the file's episode agrees with an end that is stored. Raises `_Conflict`."""
    mine = episode.end
    differs = mine is not None and (mine.termination, mine.steps) != (end.termination, end.steps)
    if differs or any(step.step_id.step >= end.steps for step in episode.steps):
        in_file = "goes on" if mine is None else f"ended {_said(mine)}"
        why = f"it is stored as ended {_said(end)}, and in the file it {in_file}"
        raise _Conflict("EPISODE_ENDED", why)


def _check_beginning(head: EpisodeHead, stored: Episode, *, is_same: bool) -> None:
    """Check that an episode that goes on is the file's, and no other of its name. Raises
    `_Conflict`.
    """
    mine, theirs = _beginning(head), _beginning(stored.head)
    other = [
        field.name
        for field in BeginEpisodeRequest.DESCRIPTOR.fields
        if getattr(mine, field.name) != getattr(theirs, field.name)
    ]
    if other:
        why = f"an episode of that name goes on there, with another {' and another '.join(other)}"
        raise _Conflict("EPISODE_CONFLICT", why)
    if not is_same and stored.head.HasField("policy_version"):
        why = "an episode of that name has begun there, and has none of the file's steps"
        raise _Conflict("EPISODE_CONFLICT", why)


def _said(end: EpisodeEnd) -> str:
    return f"{name_of(Termination.DESCRIPTOR, end.termination)} after {end.steps} steps"
