"""The curves of a training as files that TensorBoard reads.

They are for looking at: what counts is in the database, from which they can be written again.
"""

from __future__ import annotations

from pathlib import Path

from tensorboardX import SummaryWriter

from simic.learning.update import Update


class Curves:
    """One folder of event files for a training."""

    def __init__(self, folder: Path, updates: int) -> None:
        """Go on after so many updates: what a killed learner wrote of later ones is dropped."""
        self._writer = SummaryWriter(str(folder), purge_step=updates + 1, flush_secs=5)

    def add(self, number: int, update: Update, episodes: int) -> None:
        """Add the points of an update.

        Args:
            number: of the update.
            update: what it did.
            episodes: learned from so far, itself included.
        """
        points = {"mean_return": update.mean_return, "episodes": float(episodes)}
        for name, value in {**points, **update.diagnostics}.items():
            self._writer.add_scalar(f"training/{name}", value, number)
        for alarm in update.alarms:
            self._writer.add_text("alarms", alarm, number)
        self._writer.flush()
