"""A model that grows by actions while somebody else trains it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from kasmina.attach.graft import Graft
from kasmina.attach.lessons import Lessons, Loss
from kasmina.attach.optimizer import SeedOptimizers
from kasmina.network.cost import HostCost
from kasmina.network.growth import GrowingNetwork
from kasmina.network.slot import Action, Outcome, Slot, Stage
from kasmina.training.configuration import TrainerConfig
from kasmina.training.grower import Grower
from kasmina.training.interval import IntervalFacts
from kasmina.training.readings import Readings
from kasmina.training.spending import Spending
from kasmina.training.telemetry import Snapshot, bounded


class GrowingModel:
    """The seeds in a model, what they learn, and what is known of it all."""

    def __init__(
        self,
        graft: Graft,
        optimizers: SeedOptimizers,
        loss: Loss,
        config: TrainerConfig,
        cost: HostCost,
        validated: tuple[float, float],
        ablation: tuple[Tensor, Any] | None,
    ) -> None:
        """`validated` has loss and accuracy of the model as it is; `ablation` the images and labels
        that seeds are left out on, if any."""
        self._graft = graft
        self._optimizers = optimizers
        self._config = config
        self._ablation = ablation
        self._grower = Grower(graft.network, optimizers, config)
        self._lessons = Lessons(graft, self._grower, optimizers, loss, config)
        self._readings = Readings(
            graft.network,
            self._grower,
            config.horizon,
            checked_loss("validated[0]", validated[0]),
            checked_accuracy("validated[1]", validated[1]),
        )
        self._spending = Spending(cost, graft.network.slots)
        self._begun_at = time.perf_counter()

    @property
    def network(self) -> GrowingNetwork:
        """The model with its seeds, as one."""
        return self._graft.network

    @property
    def interval(self) -> int:
        """Decision intervals trained so far."""
        return self._readings.interval

    @property
    def finished(self) -> bool:
        """Whether the horizon has been reached."""
        return self._readings.finished

    @property
    def interval_is_empty(self) -> bool:
        """Whether nothing was learnt in the interval yet."""
        return self._lessons.interval_is_empty

    def snapshot(self) -> Snapshot:
        """What is known now; nothing is measured or changed."""
        return self._readings.snapshot(self._lessons.steps, self._optimizers.learning_rate)

    def apply(self, action: Action, slot_id: str | None) -> Outcome:
        """Does `action` at the slot, or nothing where the rules do not allow it."""
        outcome = self._grower.apply(action, slot_id, self._readings.accuracy)
        for seed in self.network.seeds.values():
            self._graft.place(seed)
        return outcome

    def learn(self, labels: Any, scale: float) -> None:
        """Has the seeds learn from the model's last pass. Raises `MisplacedStep`."""
        self._lessons.step(labels, scale)

    def end_interval(
        self, train_loss: float, val_loss: float, val_accuracy: float
    ) -> IntervalFacts:
        """Ends an interval, of which there was something. The last one drops the seeds that are not
        fossilised."""
        lessons = self._lessons.end_interval()
        evaluated, self._graft.evaluated = self._graft.evaluated, 0
        self._spending.trained(lessons.images)
        self._spending.validated(evaluated)
        for slot in self.network.slots:
            if slot.depth in lessons.measured:
                blueprint = self._grower.blueprint_at(slot)
                self._spending.measured(slot.depth, blueprint, lessons.measured_images)
            if slot.stage is not Stage.BLENDING and lessons.steps > 0:
                slot.blend_steps = self._config.blend_intervals * lessons.steps
        self._readings.take(lessons.signs)
        if self.finished:
            self.drop_unfossilized()
        ablations = {}
        if self._ablation is not None:
            ablations = self._lessons.ablations(self._ablation)
            self._spending.ablated(len(self._ablation[0]))
        self._readings.validated(train_loss, val_loss, val_accuracy, ablations)
        seconds = time.perf_counter() - self._begun_at
        self._begun_at += seconds
        return IntervalFacts(
            train_loss=bounded(train_loss),
            val_loss=bounded(val_loss),
            val_accuracy=val_accuracy,
            validation_correct=b"",
            training_images=lessons.images,
            validation_images=evaluated,
            seconds=seconds,
            parameters=self.network.parameter_count(),
            multiply_adds=self._spending.of_an_image,
            multiply_adds_spent=self._spending.spent,
            multiply_adds_bare=self._spending.bare(
                lessons.images, evaluated, lessons.measured_images, self._grower.blueprint_at
            ),
        )

    def begin_interval(self) -> None:
        """What the model's passes show and keep from now on is the next interval's."""
        self._graft.watch(is_last=self.interval == self._config.horizon - 1)
        self._lessons.begin_interval()

    def before_training(self, call: Callable[[], None] | None) -> None:
        """Has `call` called before the next pass in training mode, in place of what was."""
        self._graft.before_training = call

    def rest(self) -> None:
        """Nothing is learnt any more. The model keeps the seeds that are live."""
        self._graft.unwatch()

    def drop_unfossilized(self) -> None:
        """Takes out every seed that is not there for good."""
        self._grower.drop_unfossilized()

    def state(self) -> dict[str, Any]:
        """Everything but the model itself, of plain types and tensors.

        What was measured in an interval that is not over yet is not in it.
        """
        return {
            # Through JSON: an enumeration is a string then, which torch.load takes as it is.
            "slots": [json.loads(json.dumps(slot.state())) for slot in self.network.slots],
            "seeds": self.network.seeds.state_dict(),
            "optimizers": self._optimizers.state(),
            "readings": self._readings.state(),
            "steps": self._lessons.steps,
            "expected_steps": self._lessons.expected_steps,
            "multiply_adds_spent": self._spending.spent,
        }

    def require_slots(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError unless the state is of these slots."""
        here = [slot.slot_id for slot in self.network.slots]
        there = [slot["slot_id"] for slot in state["slots"]]
        if there != here:
            raise ValueError(
                f"the state has the slots {', '.join(there)}; the model has {', '.join(here)}"
            )

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` gave."""
        self.require_slots(state)
        for slot, known in zip(self.network.slots, state["slots"], strict=True):
            if slot.has_seed:
                self.network.uproot(slot)
                self._optimizers.release(slot.slot_id)
            vars(slot).update(vars(Slot.from_state(known)))  # others hold the slot itself
        self._grower.replant()
        self.network.seeds.load_state_dict(state["seeds"])
        for seed in self.network.seeds.values():
            self._graft.place(seed)
        self._optimizers.restore(state["optimizers"])
        self._readings.restore(state["readings"])
        self._lessons.steps = state["steps"]
        self._lessons.expected_steps = state["expected_steps"]
        self._spending.spent = state["multiply_adds_spent"]
        self._begun_at = time.perf_counter()
        self.begin_interval()


def checked_loss(name: str, loss: float) -> float:
    """The loss. Raises ValueError where it is negative; one that is not finite is possible."""
    if loss < 0:
        raise ValueError(f"{name} is {loss}; a loss in nats is not negative")
    return float(loss)


def checked_accuracy(name: str, accuracy: float) -> float:
    """The accuracy. Raises ValueError where it is not a fraction."""
    if not 0.0 <= accuracy <= 1.0:
        raise ValueError(f"{name} is {accuracy}; an accuracy is a fraction in [0, 1]")
    return float(accuracy)
