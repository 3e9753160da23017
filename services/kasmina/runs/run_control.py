"""Whether a run may go on: cancelled, paused because a disk is full, or waiting for a neighbour
that it may not do without.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TypeVar

from chassis.errors import ErrorCode
from kasmina.runs.disk import Disk, DiskFull
from kasmina.runs.journal import Journal
from leyline.v1.trainer_pb2 import RUN_STATE_PAUSED, RUN_STATE_RUNNING

T = TypeVar("T")

_POLL_S = 0.2
_ACKNOWLEDGEMENT_POLL_S = 0.02
_PAUSE_AFTER_S = 2.0

_REFUSALS = {
    ErrorCode.STALE_FENCE.name: "another trainer has begun the episode since, and goes on with it",
    ErrorCode.TRANSITION_CONFLICT.name: (
        "an earlier attempt played the episode otherwise, and its step is stored; what makes two"
        " attempts the same is in docs/several-trainers.md"
    ),
}

TellDisk = Callable[[str | None], None]
"""Tells the service, without a disk, why nothing can be written; None when it can again."""


class RunCancelled(Exception):
    """Somebody has asked for the end of the run."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RunAbandoned(RunCancelled):
    """Nobody has come back to the run for too long."""


class RunFailed(Exception):
    """The run cannot go on, for a reason that the message says to people."""


class RunControl:
    """One run's leave to go on."""

    def __init__(
        self,
        run_id: str,
        journal: Journal,
        disk: Disk,
        tell_disk: TellDisk,
        *,
        waits_for_experience: bool = False,
    ) -> None:
        """Makes it; `waits_for_experience` is for `await_experience`."""
        self._run_id = run_id
        self._journal = journal
        self._disk = disk
        self._tell_disk = tell_disk
        self._waits_for_experience = waits_for_experience
        self._paused_for: str | None = None
        self._disk_is_full = False

    def before_step(self) -> None:
        """Returns when the next step may begin: there is room for what it will write, and the one
        before it is where it has to be. Raises `RunCancelled` or `RunFailed`.
        """
        self.check_cancelled()
        self.persist(self._disk.require_room)
        self.await_experience()

    def await_experience(self) -> None:
        """Returns when the experience service has stored all that the run has done, where the run
        is to wait for that.

        Raises:
            RunCancelled: somebody has asked for the end meanwhile.
            RunFailed: the experience service has refused some of it for good.
        """
        if not self._waits_for_experience:
            return
        pause_at = time.monotonic() + _PAUSE_AFTER_S
        while self._journal.outbox.depth_of(self._run_id):
            self.check_cancelled()
            if time.monotonic() > pause_at:
                self.pause("waiting for the experience service to store what the run has done")
            time.sleep(_ACKNOWLEDGEMENT_POLL_S)
        self.go_on()
        refused = self._journal.outbox.refused(self._run_id)
        if refused:
            _, reason = refused[0]
            raise RunFailed(
                f"the experience service has refused a step for good: {reason}:"
                f" {_REFUSALS.get(reason, 'the log says more')}"
            )

    def check_cancelled(self) -> None:
        """Raises `RunCancelled` once somebody has asked for the end."""
        reason = self._journal.runs.cancel_reason(self._run_id)
        if reason is not None:
            raise RunCancelled(reason)

    def persist(self, write: Callable[[], T], *, to_the_end: bool = False) -> T:
        """What `write` returns, as soon as the disk has room for it; the run is PAUSED until then.

        Raises `RunCancelled` while it waits, unless it is the end of the run that is to be written
        (`to_the_end`): that needs so little that the reserve's room will do.
        """
        while True:
            try:
                if self._disk_is_full and not to_the_end:
                    self._disk.require_room()
                    self._leave_pause()
                return write()
            except DiskFull as full:
                self._wait_for_room(full)
                if not to_the_end:
                    self.check_cancelled()

    def pause(self, reason: str) -> None:
        """Says that the run waits, and for what it began to. Raises `RunCancelled`."""
        self.check_cancelled()
        if self._paused_for is None:
            self.persist(lambda: self._journal.runs.change(self._run_id, RUN_STATE_PAUSED, reason))
            self._paused_for = reason

    def go_on(self) -> None:
        """Says that the run goes on, where it was paused."""
        if self._paused_for is not None:
            self.persist(self._leave_pause)

    def _leave_pause(self) -> None:
        self._journal.runs.change(self._run_id, RUN_STATE_RUNNING, "")
        self._paused_for = None
        if self._disk_is_full:
            self._disk_is_full = False
            self._tell_disk(None)

    def _wait_for_room(self, full: DiskFull) -> None:
        """Says why the run waits, first to the service and then, with the reserve's room, in the
        journal.
        """
        if not self._disk_is_full:
            self._disk_is_full = True
            self._paused_for = None
            self._tell_disk(str(full))
        if self._paused_for is None:
            self._disk.give_up_reserve()
            # Somebody else may have taken the reserve's room: then the next round tries again.
            with contextlib.suppress(DiskFull):
                self._journal.runs.change(self._run_id, RUN_STATE_PAUSED, str(full))
                self._paused_for = str(full)
        time.sleep(_POLL_S)
