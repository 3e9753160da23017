"""Episodes of a network that learns from images."""

from __future__ import annotations

from pathlib import Path

from kasmina.data.dataset import Dataset
from kasmina.randomness import derive_seed
from kasmina.runs.episode_source import EpisodeTrainer
from kasmina.runs.run_control import RunFailed
from kasmina.runs.run_spec import trainer_config
from kasmina.runs.seeds import Stream, episode_seeds, evaluation_seeds
from kasmina.runs.situation import draw
from kasmina.training.trainer import GrowthTrainer
from leyline.v1.episode_pb2 import EpisodeOrigin, EpisodeReference, Seeds
from leyline.v1.trainer_pb2 import Compute, RunSpec

_STREAMS: tuple[Stream, ...] = ("initialization", "order", "augmentation", "blueprint")
_STREAMS_OF_SITUATIONS: tuple[Stream, ...] = ("situation", "data")


class NetworkSource:
    """Trainers of a settled specification over a data set."""

    leaves_networks = True

    def __init__(self, spec: RunSpec, compute: Compute, dataset: Dataset) -> None:
        self._spec = spec
        self._compute = compute
        self._dataset = dataset
        of_situations = _STREAMS_OF_SITUATIONS if spec.HasField("situations") else ()
        self._streams = (*of_situations, *_STREAMS)

    def origin(self, episode_index: int) -> EpisodeOrigin:
        """Seeds of the episode, and its situation where the run has any."""
        return self._origin(episode_seeds(self._spec, episode_index, self._streams))

    def evaluation_origin(self, pair: int) -> EpisodeOrigin:
        """The same of both episodes of a pair."""
        origin = self._origin(evaluation_seeds(self._spec, pair, self._streams))
        origin.evaluation_pair = pair
        return origin

    def fresh(self, origin: EpisodeOrigin) -> EpisodeTrainer:
        """A network that has learned nothing. Raises `RunFailed` where it cannot be built."""
        try:
            config = trainer_config(self._spec, origin, self._compute)
            return GrowthTrainer(config, self._images(origin))
        except ValueError as error:
            raise RunFailed(f"the host cannot be built for these images: {error}") from error

    def resumed(self, path: Path, origin: EpisodeOrigin) -> EpisodeTrainer:
        """The network of a checkpoint. Raises `CheckpointError`."""
        return GrowthTrainer.load(path, self._images(origin))

    def export(self, trainer: EpisodeTrainer, path: Path, whose: EpisodeReference) -> None:
        """Writes the network alone. Raises OSError."""
        assert isinstance(trainer, GrowthTrainer)
        trainer.export(path, {"run_id": whose.run_id, "episode_index": whose.episode_index})

    def _origin(self, seeds: Seeds) -> EpisodeOrigin:
        spec = self._spec
        if not spec.HasField("situations"):
            return EpisodeOrigin(seeds=seeds)
        return EpisodeOrigin(seeds=seeds, situation=draw(spec.situations, spec, seeds.situation))

    def _images(self, origin: EpisodeOrigin) -> Dataset:
        """The images as the episode's situation has them: the validation split stays whole and
        true.
        """
        dataset, situation = self._dataset, origin.situation
        if not origin.HasField("situation"):
            return dataset
        if situation.training_images < len(dataset.train):
            dataset = dataset.subset(
                situation.training_images, derive_seed(origin.seeds.data, "subset")
            )
        if situation.label_noise > 0.0:
            noise = derive_seed(origin.seeds.data, "label_noise")
            dataset = dataset.with_label_noise(situation.label_noise, noise)
        return dataset
