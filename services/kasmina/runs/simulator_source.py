"""Episodes of the simulator."""

from __future__ import annotations

from pathlib import Path

from kasmina.runs import simulated_host
from kasmina.runs.episode_source import EpisodeTrainer
from kasmina.runs.seeds import Stream, episode_seeds, evaluation_seeds
from kasmina.simulator.situation import SimulationSeeds
from kasmina.simulator.trainer import SimulatedTrainer
from leyline.v1.episode_pb2 import EpisodeOrigin, EpisodeReference, Seeds
from leyline.v1.trainer_pb2 import RunSpec

_STREAMS: tuple[Stream, ...] = ("situation", "order", "blueprint")


class SimulatorSource:
    """Simulated trainers of a settled specification.

    What an episode hides is drawn by its situation seed; the seed of its order, which has no images
    to put in order, is that of everything measured.
    """

    leaves_networks = False

    def __init__(self, spec: RunSpec) -> None:
        """Raises ValueError where there is no such family."""
        self._spec = spec
        self._parameters = simulated_host.parameters_of(spec)

    def origin(self, episode_index: int) -> EpisodeOrigin:
        """Seeds of the episode; its range is the family, which is held out where that is."""
        return self._origin(episode_seeds(self._spec, episode_index, _STREAMS))

    def evaluation_origin(self, pair: int) -> EpisodeOrigin:
        """The same of both episodes of a pair."""
        origin = self._origin(evaluation_seeds(self._spec, pair, _STREAMS))
        origin.evaluation_pair = pair
        return origin

    def fresh(self, origin: EpisodeOrigin) -> EpisodeTrainer:
        """An episode at its beginning."""
        seeds = SimulationSeeds(
            situation=origin.seeds.situation,
            noise=origin.seeds.order,
            blueprint=origin.seeds.blueprint,
        )
        return SimulatedTrainer(self._parameters, seeds)

    def resumed(self, path: Path, origin: EpisodeOrigin) -> EpisodeTrainer:
        """The episode of a checkpoint. Raises `CheckpointError`."""
        return SimulatedTrainer.load(path)

    def export(self, trainer: EpisodeTrainer, path: Path, whose: EpisodeReference) -> None:
        """There is nothing to write."""
        raise NotImplementedError("a simulated episode leaves no network")

    def _origin(self, seeds: Seeds) -> EpisodeOrigin:
        return EpisodeOrigin(seeds=seeds, situation=simulated_host.situation_of(self._spec))
