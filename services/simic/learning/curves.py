"""The curves of a training as files that TensorBoard reads.

They are for looking at: what counts is in the database, from which they can be written again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tensorboardX import SummaryWriter

from chassis.logging import get_logger
from simic.learning.update import Update

_log = get_logger(__name__)


class Curves:
    """One folder of event files for a training."""

    def __init__(self, folder: Path, made: Sequence[tuple[int, Update, int]]) -> None:
        """Write the updates that were made before: a killed learner may have missed the last one.

        Args:
            folder: of this training alone.
            made: number, update and episodes of each, as for `add`.
        """
        try:
            self._writer = SummaryWriter(str(folder), purge_step=0, flush_secs=5)
        except OSError as error:
            _log.warning("no curves", folder=str(folder), problem=str(error))
            self._writer = None
        for number, update, episodes in made:
            self.add(number, update, episodes)

    def add(self, number: int, update: Update, episodes: int) -> None:
        """Add the points of an update.

        Args:
            number: of the update.
            update: what it did.
            episodes: learned from so far, itself included.
        """
        if self._writer is None:
            return
        points = {"mean_return": update.mean_return, "episodes": float(episodes)}
        for name, value in {**points, **update.diagnostics}.items():
            self._writer.add_scalar(f"training/{name}", value, number)
        for alarm in update.alarms:
            self._writer.add_text("alarms", alarm, number)
        self._writer.flush()
