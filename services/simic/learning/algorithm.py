"""What every algorithm is to the learner: a network, and how it changes with a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import optim

from simic.learning.network import PolicyNetwork
from simic.learning.rollout import Trajectory
from simic.learning.update import Update


class Algorithm(Protocol):
    """Learns from batches, one update after the other.

    Its whole state is the network and the optimisers: with these restored, the next update is the
    same as without the interruption.
    """

    @property
    def network(self) -> PolicyNetwork:
        """What it changes."""

    @property
    def optimizers(self) -> Mapping[str, optim.Optimizer]:
        """Whose moments the next update needs, by name."""

    @property
    def batches(self) -> int:
        """Earlier batches that an update wants to see beside the fresh one."""

    def update(
        self,
        fresh: Sequence[Trajectory],
        earlier: Sequence[Sequence[Trajectory]],
        number: int,
        seed: int = 0,
    ) -> Update:
        """Learn from a fresh batch and from earlier ones.

        Args:
            fresh: episodes that were not learned from yet.
            earlier: the batches before, oldest first; at most ``batches`` of them.
            number: of this update, from 1.
            seed: of the training; with ``number`` it seeds everything random in the update.
        """
