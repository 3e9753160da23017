"""The files of one episode: checkpoints while it goes on, and the network that it leaves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kasmina.runs.disk import writing
from kasmina.runs.episode_log import Checkpoint, FinalNetwork
from kasmina.runs.episode_source import EpisodeSource, EpisodeTrainer
from kasmina.runs.run_control import RunControl
from kasmina.runs.state_directory import StateDirectory
from leyline.v1.episode_pb2 import EpisodeReference


@dataclass(frozen=True)
class EpisodeFiles:
    """Writes them, with patience where the disk is full, and removes those of no use.

    Attributes:
        keeps_checkpoints: whether they stay until the run is forgotten.
    """

    run_id: str
    episode_index: int
    state: StateDirectory
    control: RunControl
    keeps_checkpoints: bool

    def save(self, trainer: EpisodeTrainer, step: int) -> Checkpoint:
        """Writes the checkpoint from which the episode goes on with `step`."""
        path = self.checkpoint(step)
        self._write(path, trainer.save)
        return Checkpoint(step, str(path.relative_to(self.state.root)))

    def export(self, trainer: EpisodeTrainer, source: EpisodeSource) -> FinalNetwork | None:
        """Writes the network, where the source's episodes leave one."""
        if not source.leaves_networks:
            return None
        path = self.state.network(self.run_id, self.episode_index)
        whose = EpisodeReference(run_id=self.run_id, episode_index=self.episode_index)
        self._write(path, lambda path: source.export(trainer, path, whose))
        content = path.read_bytes()
        return FinalNetwork(hashlib.sha256(content).hexdigest(), len(content))

    def prune(self, keep: Path | None) -> None:
        """Removes all checkpoints but one, unless they are kept, and what a crash left
        half-written.
        """
        folder = self.state.checkpoints(self.run_id)
        useless = list(folder.glob(f".{self.episode_index}-*"))
        if not self.keeps_checkpoints:
            useless += [path for path in folder.glob(f"{self.episode_index}-*") if path != keep]
        for path in useless:
            path.unlink(missing_ok=True)

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of a step is."""
        return self.state.checkpoint(self.run_id, self.episode_index, step)

    def _write(self, path: Path, write: Callable[[Path], None]) -> None:
        def attempt() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with writing(path):
                write(path)

        self.control.persist(attempt)
