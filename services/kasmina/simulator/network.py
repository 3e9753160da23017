"""The simulated network: a host's slots, the seeds in them, and what they add to its accuracy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from kasmina.network.slot import EXECUTED, Action, NoOpReason, Outcome, Slot, Stage
from kasmina.simulator.blueprint_choice import chosen_blueprint
from kasmina.simulator.growth import GrowthRates, SlotGrowth, saturated
from kasmina.simulator.parameters import Parameters
from kasmina.simulator.signs import SlotTruth
from kasmina.simulator.situation import HiddenSeed, Situation


class SimulatedNetwork:
    """A host with slots, in one hidden situation. No randomness and no time of its own."""

    def __init__(self, parameters: Parameters, situation: Situation, blueprint_seed: int) -> None:
        """The bare host; `blueprint_seed` chooses blueprints where the choice is "random"."""
        self._choice = parameters.seeds
        self._rates = GrowthRates.of(parameters.growth)
        self._situation = situation
        self._blueprint_seed = blueprint_seed
        # Alpha moves by the interval here: an optimiser step of its own would change nothing.
        blend_steps = parameters.episode.blend_intervals
        self.slots = tuple(
            Slot(hidden.slot_id, hidden.depth, blend_steps) for hidden in situation.slots
        )
        self._growth = [SlotGrowth() for _ in self.slots]
        self._look_up_seeds()

    @property
    def gain(self) -> float:
        """What seeds and shocks add to the true accuracy of the bare host."""
        gain = 0.0
        for slot, growth, seed in zip(self.slots, self._growth, self.seeds, strict=True):
            if slot.is_live:
                gain += growth.contribution(seed, slot.alpha, self._rates)
            gain -= growth.shock
        return saturated(gain, self._choice.headroom)

    def apply(self, action: Action, slot_id: str | None, accuracy: float) -> Outcome:
        """As `SimulatedTrainer.apply`; `accuracy` is that of the last validation."""
        if action is Action.WAIT:
            return EXECUTED
        slot = next((slot for slot in self.slots if slot.slot_id == slot_id), None)
        if slot is None:
            return Outcome(NoOpReason.UNKNOWN_SLOT)
        obstacle = slot.obstacle(action)
        if obstacle is not None:
            return Outcome(obstacle)
        match action:
            case Action.GERMINATE:
                return self._germinate(slot, accuracy)
            case Action.ADVANCE:
                if slot.stage is Stage.TRAINING and self._has_diverged(slot):
                    return Outcome(NoOpReason.SEED_NOT_FINITE)
                slot.advance()
            case Action.CULL:
                self._cull(slot)
        return EXECUTED

    def grow(self) -> None:
        """One interval on."""
        blending = sum(slot.stage is Stage.BLENDING for slot in self.slots)
        for slot, growth in zip(self.slots, self._growth, strict=True):
            neighbours = blending - (slot.stage is Stage.BLENDING)
            alpha = slot.alpha
            slot.count_step()
            slot.count_interval()
            growth.train(slot, alpha, neighbours, self._rates)

    def drop_unfossilized(self) -> None:
        """What the horizon does."""
        for slot in self.slots:
            if slot.obstacle(Action.CULL) is None:
                self._cull(slot)

    def live_seeds(self) -> list[HiddenSeed]:
        """The seeds that take part in the forward pass."""
        return [seed for slot, seed in zip(self.slots, self.seeds, strict=True) if slot.is_live]

    def truth(self, slot: Slot) -> SlotTruth:
        """How things really stand at the slot."""
        growth, seed = self._growth[slot.depth], self.seeds[slot.depth]
        alpha = slot.alpha if slot.is_live else None
        return SlotTruth(
            hidden=self._situation.slots[slot.depth],
            seed=seed,
            live_alpha=alpha,
            readiness=growth.readiness,
            contribution=0.0 if alpha is None else growth.contribution(seed, alpha, self._rates),
        )

    def state(self) -> dict[str, Any]:
        """Everything that changes, as JSON can hold it."""
        return {
            "slots": [slot.state() for slot in self.slots],
            "growth": [asdict(growth) for growth in self._growth],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a state that `state` gave. Raises KeyError, TypeError or ValueError."""
        self.slots = tuple(Slot.from_state(slot) for slot in state["slots"])
        self._growth = [SlotGrowth(**growth) for growth in state["growth"]]
        self._look_up_seeds()

    def _germinate(self, slot: Slot, accuracy: float) -> Outcome:
        blueprint = self._next_blueprint(slot)
        slot.germinate(blueprint, accuracy)
        self._look_up_seeds()
        return Outcome(blueprint=blueprint)

    def _cull(self, slot: Slot) -> None:
        slot.cull()
        self._growth[slot.depth].clear()
        self._look_up_seeds()

    def _has_diverged(self, slot: Slot) -> bool:
        return self.seeds[slot.depth].diverges and self._growth[slot.depth].readiness > 0.0

    def _look_up_seeds(self) -> None:
        self.seeds: tuple[HiddenSeed, ...] = tuple(self._seeds_now())
        """By depth: the seed that the slot holds, or else would get next."""

    def _seeds_now(self) -> Iterable[HiddenSeed]:
        for slot, hidden in zip(self.slots, self._situation.slots, strict=True):
            yield hidden.seeds[slot.blueprint or self._next_blueprint(slot)]

    def _next_blueprint(self, slot: Slot) -> str:
        return chosen_blueprint(
            self._choice,
            self._blueprint_seed,
            slot.slot_id,
            slot.depth,
            slot.germinations,
            sum(other.germinations for other in self.slots),
        )
