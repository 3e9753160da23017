"""The trainer of one episode: a network that grows by actions, interval by interval.

    trainer = GrowthTrainer(TrainerConfig(seed=1), load_dataset(DatasetSettings()))
    while not trainer.finished:
        action, slot_id = decide(trainer.snapshot())
        trainer.save(path)
        trainer.apply(action, slot_id)
        trainer.train_interval()

Everything is a function of the configuration, the dataset and the actions: bit for bit on a
processor, with the same number of threads.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from kasmina.checkpoint import (
    Checkpoint,
    CheckpointCorrupt,
    CheckpointMismatch,
    read_checkpoint,
    write_checkpoint,
)
from kasmina.data.images import Dataset, ImageSplit
from kasmina.network.growth import GrowingNetwork
from kasmina.network.slot import Action, Outcome, Slot
from kasmina.registry import PlugInBroken
from kasmina.training.assembly import assemble, host_shape
from kasmina.training.configuration import TrainerConfig
from kasmina.training.interval import IntervalFacts, OnBatch, ValidationFacts, ablation_split
from kasmina.training.network_file import NetworkFacts, Normalisation, write_network
from kasmina.training.optimizer import GrowthOptimizer
from kasmina.training.readings import Readings
from kasmina.training.telemetry import Snapshot

_EPISODE = "growing episode"


class GrowthTrainer:
    """One episode of growing."""

    def __init__(
        self, config: TrainerConfig, dataset: Dataset, checkpoint: Checkpoint | None = None
    ) -> None:
        """Builds the host and validates it untrained, or goes on from a checkpoint.

        `load` reads a checkpoint from a file. Raises ValueError where the host cannot be built for
        the images, or does not have the slots that are named.
        """
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        dataset = dataset.to(config.device)
        slots = None
        if checkpoint is not None:
            slots = [Slot.from_state(state) for state in checkpoint.facts["slots"]]
        parts = assemble(config, dataset, slots)
        self._config = config
        self._dataset = dataset
        self._ablation_split = ablation_split(dataset.validation)
        self._network = parts.network
        self._optimizer = parts.optimizer
        self._grower = parts.grower
        self._trainer = parts.interval_trainer
        self._spending = parts.spending
        if checkpoint is None:
            facts = self._trainer.validate(dataset.validation)
            self._readings = self._first_readings(facts.loss, facts.accuracy)
            self._grower.plant_all(facts.accuracy)
        else:
            self._restore(checkpoint)

    @property
    def config(self) -> TrainerConfig:
        """Settings of the episode."""
        return self._config

    @property
    def interval(self) -> int:
        """Decision intervals trained so far."""
        return self._readings.interval

    @property
    def finished(self) -> bool:
        """Whether the horizon has been reached."""
        return self._readings.finished

    @property
    def slot_ids(self) -> tuple[str, ...]:
        """The slots, in order of depth."""
        return tuple(slot.slot_id for slot in self._network.slots)

    @property
    def network(self) -> GrowingNetwork:
        """The network itself."""
        return self._network

    @property
    def optimizer(self) -> GrowthOptimizer:
        """What trains it."""
        return self._optimizer

    def random_states(self) -> list[Tensor]:
        """States of every stream of random numbers that goes on from step to step."""
        return [*self._trainer.stream.state(), self._trainer.augmentation.state()]

    def parameter_count(self) -> int:
        """Parameters of the host with its blending and fossilised seeds."""
        return self._network.parameter_count()

    def snapshot(self) -> Snapshot:
        """What is known now; nothing is measured or changed."""
        return self._readings.snapshot(self._optimizer.step_count, self._optimizer.learning_rate)

    def apply(self, action: Action, slot_id: str | None = None) -> Outcome:
        """Does `action` at the slot, or nothing where the rules do not allow it.

        `slot_id` is None on WAIT. No action changes what the network computes at once, but CULL of
        a blending seed.
        """
        return self._grower.apply(action, slot_id, self._readings.accuracy)

    def train_interval(self, on_batch: OnBatch | None = None) -> IntervalFacts:
        """Trains one decision interval and validates.

        The last one of the horizon drops the seeds that are not fossilised before it validates:
        what remains is what the episode is judged by. Raises ValueError after the horizon.
        `on_batch` may raise to stop in the middle; the trainer is then of no further use, its last
        checkpoint is.
        """
        horizon = self._config.horizon
        if self.interval >= horizon:
            raise ValueError(f"the episode has ended at its horizon of {horizon}")
        start = time.perf_counter()
        fresh = self._grower.fresh_seeds()
        training = self._trainer.train(fresh, on_batch)
        self._spending.trained(training.images)
        for slot in self._network.slots:
            if slot.depth in fresh:
                blueprint = self._grower.blueprint_at(slot)
                self._spending.measured(slot.depth, blueprint, self._config.batch_size)
        self._readings.take(training.signs)
        if self.finished:
            self._grower.drop_unfossilized()
        validation = self._trainer.validate(self._dataset.validation)
        self._spending.validated(validation.images)
        ablations = self._trainer.ablations(self._ablation_split)
        self._spending.ablated(len(self._ablation_split))
        self._readings.validated(training.loss, validation.loss, validation.accuracy, ablations)
        return IntervalFacts(
            train_loss=training.loss,
            val_loss=validation.loss,
            val_accuracy=validation.accuracy,
            validation_correct=validation.correct,
            training_images=training.images,
            validation_images=validation.images,
            seconds=time.perf_counter() - start,
            parameters=self.parameter_count(),
            multiply_adds=self._spending.of_an_image,
            multiply_adds_spent=self._spending.spent,
            multiply_adds_bare=self._spending.bare(
                training.images,
                validation.images,
                self._config.batch_size,
                self._grower.blueprint_at,
            ),
        )

    def forget_spending(self) -> None:
        """Counts multiply-adds from here on: a fork does not pay for what its parent has spent."""
        self._spending.spent = 0

    def evaluate(self, split: ImageSplit) -> ValidationFacts:
        """Loss and accuracy of the network as it stands on another split. Nothing is recorded."""
        return self._trainer.validate(split)

    def save(self, path: Path) -> None:
        """Writes everything that is needed to go on bit for bit. Raises OSError."""
        tensors = {f"network/{name}": tensor for name, tensor in self._network.state_dict().items()}
        tensors |= {f"moments/{name}": tensor for name, tensor in self._optimizer.state().items()}
        tensors |= {
            f"stream/{index}": state for index, state in enumerate(self._trainer.stream.state())
        }
        tensors["augmentation"] = self._trainer.augmentation.state()
        facts = {
            "config": self._config.to_dict(),
            "dataset": self._dataset.digest,
            "steps": self._optimizer.step_count,
            "cursor": self._trainer.order.cursor,
            "slots": [slot.state() for slot in self._network.slots],
            "readings": self._readings.state(),
            "multiply_adds_spent": self._spending.spent,
        }
        write_checkpoint(path, Checkpoint(_EPISODE, tensors, facts))

    def export(self, path: Path, origin: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Writes the network alone, as `kasmina.training.network_file` reads it.

        `origin` says where it comes from, as JSON can hold it. Raises OSError.
        """
        dataset = self._dataset
        facts = NetworkFacts(
            host=self._config.host,
            shape=host_shape(self._config, dataset),
            normalisation=Normalisation(dataset.mean.tolist(), dataset.deviation.tolist()),
            dataset=dataset.name,
            class_names=dataset.class_names,
            validation_accuracy=self._readings.accuracy,
            origin=origin,
        )
        write_network(path, self._network, facts)

    @classmethod
    def load(cls, path: Path, dataset: Dataset) -> GrowthTrainer:
        """The trainer that `save` wrote, on the same dataset.

        Raises `CheckpointNotFound`, `CheckpointCorrupt`, `CheckpointMismatch` where the images are
        others, or `PlugInBroken`.
        """
        checkpoint = read_checkpoint(path, _EPISODE)
        try:
            if checkpoint.facts["dataset"] != dataset.digest:
                raise CheckpointMismatch(
                    path, f"it was trained on other images than {dataset.name}"
                )
            config = TrainerConfig.from_dict(checkpoint.facts["config"])
            return cls(config, dataset, checkpoint)
        except PlugInBroken:
            raise
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointCorrupt(path, f"written by another version ({error!r})") from error

    def _restore(self, checkpoint: Checkpoint) -> None:
        facts = checkpoint.facts
        self._grower.replant()
        self._network.load_state_dict(_under("network/", checkpoint.tensors))
        self._optimizer.restore(_under("moments/", checkpoint.tensors), facts["steps"])
        streams = _under("stream/", checkpoint.tensors)
        self._trainer.stream.restore([streams[str(index)] for index in range(len(streams))])
        self._trainer.augmentation.restore(checkpoint.tensors["augmentation"])
        self._trainer.order.cursor = facts["cursor"]
        self._spending.spent = facts["multiply_adds_spent"]
        self._readings = self._first_readings(loss=0.0, accuracy=0.0)
        self._readings.restore(facts["readings"])

    def _first_readings(self, loss: float, accuracy: float) -> Readings:
        return Readings(self._network, self._grower, self._config.horizon, loss, accuracy)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
