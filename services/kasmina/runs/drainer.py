"""Empties the outbox into the experience service, whenever that is there: nothing lost, nothing
doubled.

It runs in the service and not in the worker, so that what a finished run has left is sent as well.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import grpc
from google.rpc.status_pb2 import Status

from chassis.errors import ErrorCode
from chassis.logging import get_logger
from chassis.status import RemoteError, from_status
from kasmina.runs import run_spec
from kasmina.runs.disk import DiskFull
from kasmina.runs.experience_client import (
    ANSWER_S,
    FOR_GOOD,
    EpisodeIntroduction,
    ExperienceClient,
    RecordingStream,
)
from kasmina.runs.journal import Journal
from kasmina.runs.outbox import OutboxItem, Refusal
from leyline.v1.experience_pb2 import ExperienceItem, RejectedItem

_log = get_logger(__name__)

_BATCH_ITEMS = 64
_BATCH_BYTES = 1 << 20
_LONGEST_IDLE_S = 1.0
_FIRST_BACKOFF_S = 0.1
_LONGEST_BACKOFF_S = 3.0
_FENCE_ATTEMPTS = 5

# Not the process's own stream: a training script that runs beside may draw from that.
_jitter = random.Random()

_WANTS_FENCE = frozenset((ErrorCode.STALE_FENCE.name, ErrorCode.EPISODE_NOT_BEGUN.name))
_PASSING = frozenset(
    (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
    )
)


class Drainer:
    """Sends the oldest items again and again until each is acknowledged or refused for good."""

    def __init__(
        self,
        journal: Journal,
        client: ExperienceClient,
        poll_interval_s: float,
        *,
        is_awaited: bool = False,
    ) -> None:
        """Makes it.

        Args:
            journal: whose outbox is emptied.
            client: of the experience service.
            poll_interval_s: between two looks into the outbox, at least.
            is_awaited: whether runs wait for it: then it looks that often always, and an episode
                that somebody else has begun since is left to him.
        """
        self._journal = journal
        self._client = client
        self._poll_interval_s = poll_interval_s
        self._longest_idle_s = max(0.0 if is_awaited else _LONGEST_IDLE_S, poll_interval_s)
        self._yields = is_awaited
        self._stream: RecordingStream | None = None
        self._fence_attempts: Counter[int] = Counter()

    async def run(self) -> None:
        """Drains for ever; ends by being cancelled."""
        backoff_s = _FIRST_BACKOFF_S
        idle_s = self._poll_interval_s
        away = False
        try:
            while True:
                try:
                    sent = await self._send_batch()
                    if away and sent:
                        _log.info("experience service is back")
                        away = False
                    backoff_s = _FIRST_BACKOFF_S
                    if sent:
                        idle_s = self._poll_interval_s
                    else:
                        # While an interval is trained there is nothing to send: ten looks a second
                        # would be half of what this service costs.
                        await asyncio.sleep(idle_s)
                        idle_s = min(2 * idle_s, self._longest_idle_s)
                except (RemoteError, TimeoutError, DiskFull) as error:
                    self._close_stream()
                    if not away:
                        _log.warning("outbox waits", reason=str(error) or "no acknowledgement")
                        away = True
                    await asyncio.sleep(backoff_s * _jitter.uniform(0.5, 1.0))
                    backoff_s = min(backoff_s * 2, _LONGEST_BACKOFF_S)
        finally:
            self._close_stream()

    async def drain(self) -> None:
        """Sends until nothing is left.

        Raises `RemoteError`, TimeoutError or `DiskFull` where that cannot be now.
        """
        try:
            while await self._send_batch():
                pass
        finally:
            self._close_stream()

    async def _send_batch(self) -> bool:
        """Sends what there is, at most a message of it; whether there was anything."""
        batch = await asyncio.to_thread(self._journal.outbox.head, _BATCH_ITEMS, _BATCH_BYTES)
        if not batch:
            return False
        welcome = await self._without_unwelcome(batch)
        if not welcome:
            return True
        items = await self._addressed(welcome)
        if self._stream is None:
            self._stream = self._client.record()
        rejected = await self._stream.send(items, ANSWER_S)
        await self._settle(welcome, items, rejected)
        return True

    async def _without_unwelcome(self, batch: Sequence[OutboxItem]) -> Sequence[OutboxItem]:
        """The batch without the items of episodes that the service will not begin, which are laid
        aside: they must not hold up the others.
        """
        refusals: dict[tuple[str, int], Refusal | None] = {}
        for entry in batch:
            episode = (entry.run_id, entry.episode_index)
            if episode in refusals:
                continue
            refusals[episode] = None
            try:
                await self._fence(*episode)
            except RemoteError as error:
                if error.status not in FOR_GOOD:
                    raise
                refusals[episode] = _refusal(entry, error)
        refused = [
            replace(refusal, sequence=entry.sequence)
            for entry in batch
            if (refusal := refusals[entry.run_id, entry.episode_index]) is not None
        ]
        if refused:
            await asyncio.to_thread(self._journal.outbox.settle, [], refused)
        unwelcome = {refusal.sequence for refusal in refused}
        return [entry for entry in batch if entry.sequence not in unwelcome]

    async def _addressed(self, batch: Sequence[OutboxItem]) -> list[ExperienceItem]:
        """The batch with sequences and fences; begins the episodes that have none yet."""
        fences: dict[tuple[str, int], int] = {}
        items = []
        for entry in batch:
            episode = (entry.run_id, entry.episode_index)
            if episode not in fences:
                fences[episode] = await self._fence(*episode)
            item = entry.item
            item.sequence = entry.sequence
            item.fence = fences[episode]
            items.append(item)
        return items

    async def _fence(self, run_id: str, episode_index: int) -> int:
        record = await asyncio.to_thread(self._journal.episodes.get, run_id, episode_index)
        if record is not None and record.fence is not None:
            return record.fence
        return await self._begin(run_id, episode_index)

    async def _begin(self, run_id: str, episode_index: int) -> int:
        record = await asyncio.to_thread(self._journal.episodes.get, run_id, episode_index)
        run = await asyncio.to_thread(self._journal.runs.get, run_id)
        # What is in the outbox belongs to an episode of a run.
        assert record is not None
        assert run is not None
        introduction = EpisodeIntroduction(
            run_id=run_id,
            episode_index=episode_index,
            policy=record.policy,
            follows_registry=record.follows_registry,
            mode=record.mode,
            horizon=run.spec.training.horizon,
            slots=len(run.spec.host.slots),
            spec_fingerprint=run_spec.fingerprint_of(run.spec),
            origin=record.origin,
        )
        try:
            begun = await self._client.begin_episode(introduction, ANSWER_S)
        except RemoteError as error:
            if error.error_code is not ErrorCode.VERSION_NOT_READY:
                raise
            # It is being decided by the version that there was when it began. What it has seen is
            # kept all the same, and must not hold up the others until another version is there.
            unpinned = replace(introduction, follows_registry=False)
            begun = await self._client.begin_episode(unpinned, ANSWER_S)
        await asyncio.to_thread(
            self._journal.episodes.raise_fence, run_id, episode_index, begun.fence
        )
        return begun.fence

    async def _settle(
        self,
        batch: Sequence[OutboxItem],
        items: Sequence[ExperienceItem],
        rejected: Sequence[RejectedItem],
    ) -> None:
        """Takes out what was acknowledged, lays aside what was refused for good, and leaves the
        rest to be sent again.
        """
        refusals: list[Refusal] = []
        again: list[OutboxItem] = []
        sent = {
            entry.sequence: (entry, item.fence) for entry, item in zip(batch, items, strict=True)
        }
        for rejection in rejected:
            if rejection.sequence not in sent:
                continue
            entry, fence = sent[rejection.sequence]
            error = from_status(rejection.error)
            if await self._may_be_sent_again(entry, fence, error):
                again.append(entry)
            else:
                refusals.append(replace(_refusal(entry, error), error=rejection.error))
        left = {entry.sequence for entry in again} | {refusal.sequence for refusal in refusals}
        acknowledged = [entry.sequence for entry in batch if entry.sequence not in left]
        await asyncio.to_thread(self._journal.outbox.settle, acknowledged, refusals)
        for sequence in acknowledged:
            self._fence_attempts.pop(sequence, None)
        if again:
            # Sequences only grow within a stream: what is sent again needs another one.
            self._close_stream()

    async def _may_be_sent_again(self, entry: OutboxItem, fence: int, error: RemoteError) -> bool:
        if error.reason in _WANTS_FENCE:
            self._fence_attempts[entry.sequence] += 1
            if self._fence_attempts[entry.sequence] > _FENCE_ATTEMPTS:
                return False
            record = await asyncio.to_thread(
                self._journal.episodes.get, entry.run_id, entry.episode_index
            )
            # The worker, or an item before this one, may have got a higher fence meanwhile.
            if record is None or record.fence is None or record.fence <= fence:
                if self._yields and error.error_code is ErrorCode.STALE_FENCE:
                    return False
                try:
                    await self._begin(entry.run_id, entry.episode_index)
                except RemoteError as refused:
                    if refused.status not in FOR_GOOD:
                        raise
                    return False
            return True
        if error.status in _PASSING:
            raise error
        return False

    def _close_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _refusal(entry: OutboxItem, error: RemoteError) -> Refusal:
    """What keeps an item out of the experience service for good; also told to the log."""
    _log.error("item refused", run_id=entry.run_id, episode=entry.episode_index, reason=str(error))
    status = Status(code=error.status.value[0], message=error.message)
    return Refusal(entry.sequence, error.reason or error.status.name, status)
