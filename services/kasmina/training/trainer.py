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
from dataclasses import asdict
from pathlib import Path
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
from kasmina.data.dataset import Dataset, ImageSplit
from kasmina.network.blueprint import parameter_count, plant
from kasmina.network.growth import GrowingNetwork, is_finite
from kasmina.network.host import Host, HostShape, build_host
from kasmina.network.slot import EXECUTED, Action, NoOpReason, Outcome, Slot, Stage
from kasmina.randomness import derive_seed
from kasmina.training.configuration import TrainerConfig
from kasmina.training.interval import IntervalFacts, IntervalTrainer, OnBatch, ValidationFacts
from kasmina.training.network_file import Normalisation, write_network
from kasmina.training.optimizer import GrowthOptimizer, OptimizerSettings
from kasmina.training.telemetry import SlotReading, SlotSigns, Snapshot, VitalSigns

_EPISODE = "growing episode"


class GrowthTrainer:
    """One episode of growing."""

    def __init__(
        self, config: TrainerConfig, dataset: Dataset, checkpoint: Checkpoint | None = None
    ) -> None:
        """Builds the host and validates it untrained, or goes on from a checkpoint.

        `load` reads a checkpoint from a file. Raises ValueError where the host cannot be built for
        the images.
        """
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        shape = HostShape(dataset.shape, dataset.classes, config.channels)
        host = build_host(config.host, shape, derive_seed(config.seed, "host"))
        self._config = config
        self._dataset = dataset
        self._host_size = sum(parameter.numel() for parameter in host.parameters())
        self._network = GrowingNetwork(host, self._empty_slots(host))
        self._network.to(config.device).to(memory_format=torch.channels_last)
        self._optimizer = GrowthOptimizer(host, self._optimizer_settings())
        self._trainer = IntervalTrainer(self._network, self._optimizer, dataset, config)
        self._interval = 0
        self._slot_signs = {slot.slot_id: SlotSigns() for slot in self._network.slots}
        if checkpoint is None:
            facts = self._trainer.validate(dataset.validation)
            self._vital_signs = VitalSigns.of_untrained(facts.loss, facts.accuracy)
        else:
            self._restore(checkpoint)

    @property
    def config(self) -> TrainerConfig:
        """Settings of the episode."""
        return self._config

    @property
    def interval(self) -> int:
        """Decision intervals trained so far."""
        return self._interval

    @property
    def finished(self) -> bool:
        """Whether the horizon has been reached."""
        return self._interval >= self._config.horizon

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
        signs = self._vital_signs
        loss = signs.losses[-1]
        return Snapshot(
            epoch=self._interval,
            global_step=self._optimizer.step_count,
            train_loss=signs.train_loss,
            val_loss=loss,
            val_accuracy=signs.accuracies[-1],
            plateau_epochs=signs.plateau,
            best_val_accuracy=signs.best_accuracy,
            best_val_loss=signs.best_loss,
            loss_history=signs.losses,
            accuracy_history=signs.accuracies,
            time_left=1.0 - self._interval / self._config.horizon,
            size_ratio=self.parameter_count() / self._host_size,
            learning_rate=self._optimizer.learning_rate,
            generalization_gap=None if signs.train_loss is None else loss - signs.train_loss,
            slots=tuple(self._reading(slot) for slot in self._network.slots),
        )

    def apply(self, action: Action, slot_id: str | None = None) -> Outcome:
        """Does `action` at the slot, or nothing where the rules do not allow it.

        `slot_id` is None on WAIT. No action changes what the network computes at once, but CULL of
        a blending seed.
        """
        if action is Action.WAIT:
            return EXECUTED
        slot = next((slot for slot in self._network.slots if slot.slot_id == slot_id), None)
        if slot is None:
            return Outcome(NoOpReason.UNKNOWN_SLOT)
        obstacle = slot.obstacle(action)
        if obstacle is not None:
            return Outcome(obstacle)
        match action:
            case Action.GERMINATE:
                return self._germinate(slot)
            case Action.ADVANCE:
                return self._advance(slot)
            case Action.CULL:
                self._cull(slot)
                return EXECUTED

    def train_interval(self, on_batch: OnBatch | None = None) -> IntervalFacts:
        """Trains one decision interval and validates.

        The last one of the horizon drops the seeds that are not fossilised before it validates:
        what remains is what the episode is judged by. Raises ValueError after the horizon.
        `on_batch` may raise to stop in the middle; the trainer is then of no further use, its last
        checkpoint is.
        """
        horizon = self._config.horizon
        if self._interval >= horizon:
            raise ValueError(f"the episode has ended at its horizon of {horizon}")
        start = time.perf_counter()
        training = self._trainer.train(on_batch)
        self._interval += 1
        self._slot_signs = training.signs
        for slot in self._network.slots:
            slot.count_interval()
        if self.finished:
            self._drop_unfossilized()
        validation = self._trainer.validate(self._dataset.validation)
        self._vital_signs = self._vital_signs.after_interval(
            training.loss, validation.loss, validation.accuracy
        )
        return IntervalFacts(
            train_loss=training.loss,
            val_loss=validation.loss,
            val_accuracy=validation.accuracy,
            validation_correct=validation.correct,
            training_images=training.images,
            validation_images=validation.images,
            seconds=time.perf_counter() - start,
            parameters=self.parameter_count(),
        )

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
        facts: dict[str, Any] = {
            "config": self._config.to_dict(),
            "dataset": self._dataset.digest,
            "interval": self._interval,
            "steps": self._optimizer.step_count,
            "cursor": self._trainer.order.cursor,
            "slots": [slot.state() for slot in self._network.slots],
            "slot_signs": {name: asdict(signs) for name, signs in self._slot_signs.items()},
            "vital_signs": self._vital_signs.state(),
        }
        write_checkpoint(path, Checkpoint(_EPISODE, tensors, facts))

    def export(self, path: Path) -> None:
        """Writes the network alone, as `kasmina.training.network_file` reads it. Raises OSError."""
        config, dataset = self._config, self._dataset
        shape = HostShape(dataset.shape, dataset.classes, config.channels)
        mean, deviation = dataset.mean.tolist(), dataset.deviation.tolist()
        write_network(path, self._network, config.host, shape, Normalisation(mean, deviation))

    @classmethod
    def load(cls, path: Path, dataset: Dataset) -> GrowthTrainer:
        """The trainer that `save` wrote, on the same dataset.

        Raises `CheckpointNotFound`, `CheckpointCorrupt`, or `CheckpointMismatch` where the images
        are others.
        """
        checkpoint = read_checkpoint(path, _EPISODE)
        try:
            if checkpoint.facts["dataset"] != dataset.digest:
                raise CheckpointMismatch(
                    path, f"it was trained on other images than {dataset.name}"
                )
            config = TrainerConfig.from_dict(checkpoint.facts["config"])
            return cls(config, dataset, checkpoint)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointCorrupt(path, f"written by another version ({error!r})") from error

    def _restore(self, checkpoint: Checkpoint) -> None:
        facts = checkpoint.facts
        self._network.slots = tuple(Slot.from_state(state) for state in facts["slots"])
        for slot in self._network.slots:
            if slot.blueprint is not None:
                self._plant(slot, slot.blueprint)
            if slot.stage is Stage.TRAINING or slot.is_live:
                self._optimizer.adopt(slot.slot_id, self._network.seed(slot))
        self._network.load_state_dict(_under("network/", checkpoint.tensors))
        self._optimizer.restore(_under("moments/", checkpoint.tensors), facts["steps"])
        streams = _under("stream/", checkpoint.tensors)
        self._trainer.stream.restore([streams[str(index)] for index in range(len(streams))])
        self._trainer.augmentation.restore(checkpoint.tensors["augmentation"])
        self._trainer.order.cursor = facts["cursor"]
        self._interval = facts["interval"]
        self._vital_signs = VitalSigns.from_state(facts["vital_signs"])
        self._slot_signs = {name: SlotSigns(**signs) for name, signs in facts["slot_signs"].items()}

    def _germinate(self, slot: Slot) -> Outcome:
        blueprint = self._next_blueprint(slot)
        slot.germinate(blueprint, self._vital_signs.accuracies[-1])
        self._plant(slot, blueprint)
        return Outcome(blueprint=blueprint)

    def _advance(self, slot: Slot) -> Outcome:
        if slot.stage is Stage.TRAINING and not is_finite(self._network.seed(slot)):
            return Outcome(NoOpReason.SEED_NOT_FINITE)
        slot.advance()
        if slot.stage is Stage.TRAINING:
            self._optimizer.adopt(slot.slot_id, self._network.seed(slot))
        return EXECUTED

    def _cull(self, slot: Slot) -> None:
        slot.cull()
        self._network.uproot(slot)
        self._optimizer.release(slot.slot_id)

    def _drop_unfossilized(self) -> None:
        for slot in self._network.slots:
            if slot.obstacle(Action.CULL) is None:
                self._cull(slot)

    def _plant(self, slot: Slot, blueprint: str) -> None:
        width = self._network.host.widths[slot.depth]
        seed = derive_seed(self._config.seed, "seed", slot.slot_id, slot.germinations)
        module = plant(blueprint, width, seed)
        module.to(self._config.device).to(memory_format=torch.channels_last)
        self._network.plant(slot, module)

    def _next_blueprint(self, slot: Slot) -> str:
        """What would grow if the slot were empty and a seed were put in now."""
        known = self._config.blueprints
        match self._config.blueprint_choice:
            case "fixed":
                return known[slot.depth % len(known)]
            case "round-robin":
                return known[sum(other.germinations for other in self._network.slots) % len(known)]
            case "random":
                path = ("blueprint", slot.slot_id, slot.germinations)
                return known[derive_seed(self._config.seed, *path) % len(known)]

    def _reading(self, slot: Slot) -> SlotReading:
        signs = self._slot_signs[slot.slot_id]
        accuracy = self._vital_signs.accuracies[-1]
        before = slot.accuracy_at_germination
        width = self._network.host.widths[slot.depth]
        cost = parameter_count(slot.blueprint or self._next_blueprint(slot), width)
        return SlotReading(
            slot_id=slot.slot_id,
            depth=slot.depth,
            stage=slot.stage,
            has_seed=slot.has_seed,
            alpha=slot.alpha,
            epochs_in_stage=slot.intervals_in_stage,
            blueprint=slot.blueprint,
            seed_improvement=None if before is None else accuracy - before,
            seed_cost=cost / self._host_size,
            gradient_norm=signs.gradient_norm,
            activation_sparsity=signs.activation_sparsity,
            output_ratio=signs.output_ratio if slot.has_seed else None,
        )

    def _empty_slots(self, host: Host) -> list[Slot]:
        steps = self._config.steps_of_interval(len(self._dataset.train))
        return [
            Slot(f"slot-{depth}", depth, blend_steps=self._config.blend_intervals * steps)
            for depth in range(len(host.widths))
        ]

    def _optimizer_settings(self) -> OptimizerSettings:
        config = self._config
        steps = config.steps_of_interval(len(self._dataset.train))
        return OptimizerSettings(
            learning_rate=config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            clip_norm=config.clip_norm,
            schedule=config.schedule,
            total_steps=config.horizon * steps,
        )


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
