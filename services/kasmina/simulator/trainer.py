"""The simulated trainer: an episode of growing without images, as runs play it.

    trainer = SimulatedTrainer(load_family("default"), SimulationSeeds.of_episode(root=1, index=0))
    while not trainer.finished:
        action, slot_id = decide(trainer.snapshot())
        trainer.apply(action, slot_id)
        trainer.train_interval()

Everything but the wall time is a function of parameters, seeds and actions. Snapshots, facts,
lifecycle and reasons for no-ops are those of `kasmina.training.trainer.GrowthTrainer`.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, replace
from pathlib import Path

from kasmina.checkpoint import Checkpoint, CheckpointCorrupt, read_checkpoint, write_checkpoint
from kasmina.network.slot import Action, Outcome, Slot
from kasmina.simulator.costs import Costs
from kasmina.simulator.network import SimulatedNetwork
from kasmina.simulator.parameters import Parameters
from kasmina.simulator.signs import NOTHING_MEASURED, Instruments, Signs
from kasmina.simulator.situation import SimulationSeeds, Situation
from kasmina.training.interval import IntervalFacts, OnBatch
from kasmina.training.telemetry import SlotReading, Snapshot, VitalSigns

_EPISODE = "simulated episode"


class SimulatedTrainer:
    """One simulated episode."""

    def __init__(
        self, parameters: Parameters, seeds: SimulationSeeds, checkpoint: Checkpoint | None = None
    ) -> None:
        """The episode at its beginning, or where a checkpoint left it (`load` reads one)."""
        self._parameters = parameters
        self._seeds = seeds
        self._situation = Situation.draw(parameters, seeds.situation)
        self._network = SimulatedNetwork(parameters, self._situation, seeds.blueprint)
        self._instruments = Instruments(parameters, seeds.noise)
        self._costs = Costs(parameters)
        self._interval = 0
        self._spent = 0
        self._signs = [NOTHING_MEASURED for _ in self._network.slots]
        if checkpoint is None:
            accuracy = self.true_accuracy
            self._vital_signs = VitalSigns.of_untrained(
                self._instruments.validation_loss(0, accuracy),
                self._instruments.accuracy(0, accuracy),
            )
        else:
            self._restore(checkpoint)

    @property
    def parameters(self) -> Parameters:
        """The family of the episode."""
        return self._parameters

    @property
    def seeds(self) -> SimulationSeeds:
        """Seeds of the episode."""
        return self._seeds

    @property
    def interval(self) -> int:
        """Decision intervals trained so far."""
        return self._interval

    @property
    def finished(self) -> bool:
        """Whether the horizon has been reached."""
        return self._interval >= self._parameters.episode.horizon

    @property
    def slot_ids(self) -> tuple[str, ...]:
        """The slots, in order of depth."""
        return tuple(slot.slot_id for slot in self._network.slots)

    @property
    def true_accuracy(self) -> float:
        """Accuracy of the network as it stands, without noise. For scores; no policy sees it."""
        accuracy = self._situation.host_accuracy(self._interval) + self._network.gain
        return min(max(accuracy, 0.0), 1.0)

    def snapshot(self) -> Snapshot:
        """What is known now; nothing is measured or changed."""
        episode = self._parameters.episode
        signs = self._vital_signs
        loss = signs.losses[-1]
        done = self._interval / episode.horizon
        size = self._costs.parameters(self._network.live_seeds())
        return Snapshot(
            epoch=self._interval,
            global_step=self._interval * episode.batches,
            train_loss=signs.train_loss,
            val_loss=loss,
            val_accuracy=signs.accuracies[-1],
            plateau_epochs=signs.plateau,
            best_val_accuracy=signs.best_accuracy,
            best_val_loss=signs.best_loss,
            loss_history=signs.losses,
            accuracy_history=signs.accuracies,
            time_left=1.0 - done,
            size_ratio=size / self._parameters.host.parameters,
            learning_rate=episode.learning_rate * (1.0 + math.cos(math.pi * done)) / 2.0,
            generalization_gap=None if signs.train_loss is None else loss - signs.train_loss,
            slots=tuple(self._reading(slot) for slot in self._network.slots),
        )

    def apply(self, action: Action, slot_id: str | None = None) -> Outcome:
        """Does `action` at the slot, or nothing where the rules do not allow it.

        `slot_id` is None on WAIT.
        """
        return self._network.apply(action, slot_id, self._vital_signs.accuracies[-1])

    def train_interval(self, on_batch: OnBatch | None = None) -> IntervalFacts:
        """Simulates one decision interval and its validation.

        The last one of the horizon drops the seeds that are not fossilised before it validates.
        Raises ValueError after the horizon. `on_batch` is called once, as after the last batch; it
        may raise to stop, and the trainer is then of no further use.
        """
        episode = self._parameters.episode
        if self.finished:
            raise ValueError(f"the episode has ended at its horizon of {episode.horizon}")
        start = time.perf_counter()
        if on_batch is not None:
            on_batch(episode.batches, episode.batches)
        self._spent += self._costs.training(self._network)
        self._network.grow()
        self._interval += 1
        at_horizon = self._interval == episode.horizon
        accuracy = self.true_accuracy
        train_loss = self._instruments.training_loss(self._interval, accuracy)
        self._signs = [self._measured(slot, accuracy) for slot in self._network.slots]
        if at_horizon:
            self._network.drop_unfossilized()
            accuracy = self.true_accuracy
            # Only an ablation belongs to the validation; the rest was measured in training.
            self._signs = [
                replace(signs, ablation_delta=self._measured(slot, accuracy).ablation_delta)
                for slot, signs in zip(self._network.slots, self._signs, strict=True)
            ]
        val_loss = self._instruments.validation_loss(self._interval, accuracy)
        val_accuracy = self._instruments.accuracy(self._interval, accuracy)
        self._vital_signs = self._vital_signs.after_interval(train_loss, val_loss, val_accuracy)
        live = self._network.live_seeds()
        self._spent += self._costs.validation(live)
        return IntervalFacts(
            train_loss=train_loss,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            validation_correct=b"",
            training_images=episode.batches * episode.batch_size,
            validation_images=episode.validation_images,
            seconds=time.perf_counter() - start,
            parameters=self._costs.parameters(live),
            multiply_adds=self._costs.forward(live),
            multiply_adds_spent=self._spent,
            multiply_adds_bare=self._costs.bare,
        )

    def forget_spending(self) -> None:
        """Counts multiply-adds from here on."""
        self._spent = 0

    def save(self, path: Path) -> None:
        """Writes everything that is needed to go on exactly. Raises OSError."""
        facts = {
            "parameters": self._parameters.to_dict(),
            "seeds": asdict(self._seeds),
            "interval": self._interval,
            "spent": self._spent,
            "network": self._network.state(),
            "signs": [asdict(signs) for signs in self._signs],
            "vital_signs": self._vital_signs.state(),
        }
        write_checkpoint(path, Checkpoint(_EPISODE, {}, facts))

    @classmethod
    def load(cls, path: Path) -> SimulatedTrainer:
        """The trainer that `save` wrote.

        Raises `CheckpointNotFound`, `CheckpointCorrupt`, or `CheckpointMismatch` where it is none
        of a simulated episode.
        """
        checkpoint = read_checkpoint(path, _EPISODE)
        try:
            parameters = Parameters.from_dict(checkpoint.facts["parameters"])
            return cls(parameters, SimulationSeeds(**checkpoint.facts["seeds"]), checkpoint)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointCorrupt(path, f"written by another version ({error!r})") from error

    def _restore(self, checkpoint: Checkpoint) -> None:
        facts = checkpoint.facts
        self._interval = facts["interval"]
        self._spent = facts["spent"]
        self._network.restore(facts["network"])
        self._signs = [Signs(**state) for state in facts["signs"]]
        self._vital_signs = VitalSigns.from_state(facts["vital_signs"])

    def _measured(self, slot: Slot, accuracy: float) -> Signs:
        return self._instruments.signs(self._interval, self._network.truth(slot), accuracy)

    def _reading(self, slot: Slot) -> SlotReading:
        signs = self._signs[slot.depth]
        seed = self._network.seeds[slot.depth]
        live = slot.is_live
        before = slot.accuracy_at_germination
        accuracy = self._vital_signs.accuracies[-1]
        return SlotReading(
            slot_id=slot.slot_id,
            depth=slot.depth,
            stage=slot.stage,
            has_seed=slot.has_seed,
            alpha=slot.alpha,
            epochs_in_stage=slot.intervals_in_stage,
            blueprint=slot.blueprint,
            seed_improvement=None if before is None else accuracy - before,
            seed_cost=seed.parameters / self._parameters.host.parameters,
            gradient_norm=signs.gradient_norm,
            activation_sparsity=signs.activation_sparsity,
            output_ratio=signs.output_ratio if slot.has_seed else None,
            gradmax_norm=None if live else signs.gradmax_norm,
            ablation_delta=signs.ablation_delta if live else None,
        )
