"""Where the trainer of an episode comes from, whatever kind it is."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from kasmina.network.slot import Action, Outcome
from kasmina.training.interval import IntervalFacts
from kasmina.training.telemetry import Snapshot
from leyline.v1.episode_pb2 import EpisodeOrigin, EpisodeReference


class EpisodeTrainer(Protocol):
    """What an episode asks of its trainer; see `kasmina.training.trainer.GrowthTrainer`."""

    @property
    def interval(self) -> int:
        """Decision intervals trained so far."""

    @property
    def finished(self) -> bool:
        """Whether the horizon has been reached."""

    def snapshot(self) -> Snapshot:
        """What is known now."""

    def apply(self, action: Action, slot_id: str | None = None) -> Outcome:
        """Does `action` at the slot, or nothing where the rules do not allow it."""

    def train_interval(self) -> IntervalFacts:
        """Trains one decision interval and validates."""

    def forget_spending(self) -> None:
        """Counts multiply-adds from here on."""

    def save(self, path: Path) -> None:
        """Writes everything that is needed to go on bit for bit. Raises OSError."""


class EpisodeSource(Protocol):
    """Makes the trainers of a run's episodes."""

    @property
    def leaves_networks(self) -> bool:
        """Whether an episode that has come to its horizon leaves a network."""

    def origin(self, episode_index: int) -> EpisodeOrigin:
        """Seeds and situation of an episode."""

    def evaluation_origin(self, pair: int) -> EpisodeOrigin:
        """Seeds and situation of the episodes of a pair of an evaluation, which it names."""

    def fresh(self, origin: EpisodeOrigin) -> EpisodeTrainer:
        """The trainer of an episode that begins. Raises `RunFailed`."""

    def resumed(self, path: Path, origin: EpisodeOrigin) -> EpisodeTrainer:
        """The trainer that goes on from a checkpoint. Raises `CheckpointError`."""

    def export(self, trainer: EpisodeTrainer, path: Path, whose: EpisodeReference) -> None:
        """Writes the network that an episode leaves. Raises OSError."""
