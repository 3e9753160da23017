"""What is known of a growing network from interval to interval, as its policy gets to see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from kasmina.network.blueprint import parameter_count
from kasmina.network.growth import GrowingNetwork
from kasmina.network.slot import Slot
from kasmina.training.grower import Grower
from kasmina.training.telemetry import SlotReading, SlotSigns, Snapshot, VitalSigns


class Readings:
    """The newest measurements, and those before them that snapshots show."""

    def __init__(
        self, network: GrowingNetwork, grower: Grower, horizon: int, loss: float, accuracy: float
    ) -> None:
        """`loss` and `accuracy` are of the validation before any training."""
        self._network = network
        self._grower = grower
        self._horizon = horizon
        self._host_size = sum(parameter.numel() for parameter in network.host.parameters())
        self._vital_signs = VitalSigns.of_untrained(loss, accuracy)
        self._slot_signs = {slot.slot_id: SlotSigns() for slot in network.slots}
        self._ablations: Mapping[str, float] = {}
        self.interval = 0
        """Decision intervals trained so far."""

    @property
    def finished(self) -> bool:
        """Whether the horizon has been reached."""
        return self.interval >= self._horizon

    @property
    def accuracy(self) -> float:
        """Of the last validation."""
        return self._vital_signs.accuracies[-1]

    def take(self, signs: Mapping[str, SlotSigns]) -> None:
        """An interval was trained; what was measured in it, by slot id."""
        self.interval += 1
        self._slot_signs = dict(signs)
        for slot in self._network.slots:
            slot.count_interval()

    def validated(
        self, train_loss: float, loss: float, accuracy: float, ablations: Mapping[str, float]
    ) -> None:
        """The validation after that interval. `ablations` are by slot id, of live seeds."""
        self._vital_signs = self._vital_signs.after_interval(train_loss, loss, accuracy)
        self._ablations = dict(ablations)

    def snapshot(self, global_step: int, learning_rate: float) -> Snapshot:
        """What is known now; nothing is measured or changed.

        `global_step` counts optimiser steps taken, `learning_rate` is that of the next one.
        """
        signs = self._vital_signs
        loss = signs.losses[-1]
        return Snapshot(
            epoch=self.interval,
            global_step=global_step,
            train_loss=signs.train_loss,
            val_loss=loss,
            val_accuracy=signs.accuracies[-1],
            plateau_epochs=signs.plateau,
            best_val_accuracy=signs.best_accuracy,
            best_val_loss=signs.best_loss,
            loss_history=signs.losses,
            accuracy_history=signs.accuracies,
            time_left=1.0 - self.interval / self._horizon,
            size_ratio=self._network.parameter_count() / self._host_size,
            learning_rate=learning_rate,
            generalization_gap=None if signs.train_loss is None else loss - signs.train_loss,
            slots=tuple(self._reading(slot) for slot in self._network.slots),
        )

    def state(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return {
            "interval": self.interval,
            "vital_signs": self._vital_signs.state(),
            "slot_signs": {name: asdict(signs) for name, signs in self._slot_signs.items()},
            "ablations": dict(self._ablations),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` gave. Raises KeyError or TypeError where it did not."""
        self.interval = state["interval"]
        self._vital_signs = VitalSigns.from_state(state["vital_signs"])
        self._slot_signs = {name: SlotSigns(**signs) for name, signs in state["slot_signs"].items()}
        self._ablations = dict(state["ablations"])

    def _reading(self, slot: Slot) -> SlotReading:
        signs = self._slot_signs[slot.slot_id]
        before = slot.accuracy_at_germination
        width = self._network.site(slot).width
        cost = parameter_count(self._grower.blueprint_at(slot), width)
        return SlotReading(
            slot_id=slot.slot_id,
            depth=slot.depth,
            stage=slot.stage,
            has_seed=slot.has_seed,
            alpha=slot.alpha,
            epochs_in_stage=slot.intervals_in_stage,
            blueprint=slot.blueprint,
            seed_improvement=None if before is None else self.accuracy - before,
            seed_cost=cost / self._host_size,
            gradient_norm=signs.gradient_norm,
            activation_sparsity=signs.activation_sparsity,
            output_ratio=signs.output_ratio if slot.has_seed else None,
            gradmax_norm=None if slot.is_live else signs.gradmax_norm,
            ablation_delta=self._ablations.get(slot.slot_id) if slot.is_live else None,
        )
