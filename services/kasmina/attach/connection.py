"""What an attached run needs beside its training loop: a folder with a journal, and the calls to
policy and experience service.

There are calls, and gRPC's threads, only while a line is open. A training loop forks (the workers
of a data loader, say), and a fork of a process in which gRPC runs crashes or hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import structlog

from chassis.channel import ChannelSettings, open_channel
from chassis.logging import get_logger
from chassis.status import RemoteError
from kasmina.runs.background_loop import BackgroundLoop
from kasmina.runs.decider import Decider
from kasmina.runs.disk import Disk, DiskFull
from kasmina.runs.drainer import Drainer
from kasmina.runs.experience_client import ExperienceClient
from kasmina.runs.journal import Journal
from kasmina.runs.remote_decider import Neighbours, RemoteDecider
from kasmina.runs.run_control import RunControl
from kasmina.runs.run_log import RunExists
from kasmina.runs.state_directory import StateDirectory, StateDirectoryBusy
from leyline.v1.trainer_pb2 import RunSpec

_log = get_logger(__name__)

_RETRY_S = 0.25


class AttachError(Exception):
    """The run cannot be attached to, or go on. The message says why, and what to do."""


class Connection:
    """A run's journal, open in this process, and the way to its neighbours.

    Attributes:
        journal: of this run alone.
        control: waits for room on the disk where there is none.
    """

    def __init__(self, folder: Path, run_id: str, spec: RunSpec, neighbours: Neighbours) -> None:
        """Raises `AttachError` or OSError."""
        _tell_standard_logging()
        self._neighbours = neighbours
        self._is_away = False
        with contextlib.ExitStack() as opening:
            state = StateDirectory.open(folder / run_id)
            try:
                opening.enter_context(state.run_lock(run_id, patience_s=0.0))
            except StateDirectoryBusy as busy:
                raise AttachError(
                    f"run {run_id!r} is attached already ({busy.holder or 'by another process'}):"
                    " end that, or take another run_id"
                ) from busy
            self.journal = opening.enter_context(contextlib.closing(Journal(state.journal)))
            try:
                self.journal.runs.create(run_id, spec, spec, queue_limit=1)
            except RunExists as error:
                raise AttachError(
                    f"run {run_id!r} in {state.root} began with other settings: take another"
                    " run_id, or the settings that it had"
                ) from error
            self.journal.runs.take(run_id)
            disk = Disk(state.root, state.reserve, min_free_bytes=0)
            self.control = RunControl(run_id, self.journal, disk, _tell_disk)
            self._closing = opening.pop_all()

    @contextlib.contextmanager
    def line(self) -> Iterator[Decider]:
        """The policy, as long as the line is open. Meanwhile the experience service gets what is in
        the outbox, as far as it answers in time."""
        with BackgroundLoop() as loop:
            sending = loop.start(self._send())
            decider = RemoteDecider(self._neighbours, loop, self.control)
            try:
                yield decider
            finally:
                sending.result()
                decider.close()

    def send(self) -> int:
        """Sends what is in the outbox, as far as the experience service answers in time; how many
        items are left."""
        if self.journal.outbox.depth() > 0:
            with BackgroundLoop() as loop:
                loop.run(self._send())
        return self.journal.outbox.depth()

    def close(self, patience_s: float) -> None:
        """Lets go of the run, when the outbox is empty or the patience at its end.

        What is left in the outbox is sent when the run is attached to again.
        """
        with self._closing:
            deadline = time.monotonic() + patience_s
            while (left := self.send()) and time.monotonic() < deadline:
                time.sleep(_RETRY_S)
            if left:
                _log.warning(
                    "not sent yet",
                    items=left,
                    to=self._neighbours.experience.target,
                    hint="goes out when the run is attached to again",
                )

    async def _send(self) -> None:
        async with open_channel(self._neighbours.experience) as channel:
            drainer = Drainer(self.journal, ExperienceClient(channel), _RETRY_S)
            try:
                async with asyncio.timeout(self._neighbours.experience_timeout_s):
                    await drainer.drain()
            except (RemoteError, TimeoutError, DiskFull) as error:
                if not self._is_away:
                    _log.warning("outbox waits", reason=str(error) or "no acknowledgement")
                self._is_away = True
            else:
                self._is_away = False


def channel_to(service: str | ChannelSettings) -> ChannelSettings:
    """A channel to HOST:PORT in plain text, or as its settings say."""
    return service if isinstance(service, ChannelSettings) else ChannelSettings(service)


def _tell_disk(reason: str | None) -> None:
    if reason is None:
        _log.warning("there is room on the disk again")
    else:
        _log.error("training waits for room on the disk", reason=reason)


def _tell_standard_logging() -> None:
    """Has what is logged here handled as the script handles its own logs, unless it uses
    structlog."""
    if not structlog.is_configured():
        structlog.configure(
            processors=[structlog.processors.LogfmtRenderer(key_order=["event"])],
            wrapper_class=structlog.stdlib.BoundLogger,
            logger_factory=structlog.stdlib.LoggerFactory(),
        )
