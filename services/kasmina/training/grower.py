"""Carries actions out: what happens to slots, seeds and their optimiser state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import nn

from kasmina.network.blueprint import plant
from kasmina.network.growth import GrowingNetwork, is_finite
from kasmina.network.host import Host
from kasmina.network.slot import EXECUTED, Action, NoOpReason, Outcome, Slot, Stage
from kasmina.randomness import derive_seed
from kasmina.training.configuration import DEFAULT_BLUEPRINT, TrainerConfig


class SeedOptimizer(Protocol):
    """What keeps the optimiser state of seeds."""

    def adopt(self, slot_id: str, seed: nn.Module) -> None:
        """Gives the seed in a slot fresh optimiser state."""

    def release(self, slot_id: str) -> None:
        """Drops the state of the seed in a slot; nothing where it never learnt."""


class Grower:
    """Puts seeds into a network, moves them on, and takes them out."""

    def __init__(
        self, network: GrowingNetwork, optimizer: SeedOptimizer, config: TrainerConfig
    ) -> None:
        self._network = network
        self._optimizer = optimizer
        self._config = config

    def apply(self, action: Action, slot_id: str | None, accuracy: float) -> Outcome:
        """Does `action` at the slot, or nothing where the rules do not allow it.

        `accuracy` is that of the last validation.
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
                return self._germinate(slot, accuracy)
            case Action.ADVANCE:
                return self._advance(slot)
            case Action.CULL:
                self._cull(slot)
                return EXECUTED

    def plant_all(self, accuracy: float) -> None:
        """Puts in the seeds that are present from step 0 on."""
        for slot in self._network.slots:
            blueprint = self._config.planted.get(slot.slot_id)
            if blueprint is not None:
                slot.plant(blueprint, accuracy, blueprint in self._config.duds)
                self._plant(slot, blueprint)
                self._optimizer.adopt(slot.slot_id, self._network.seed(slot))

    def replant(self) -> None:
        """Makes a module for each seed that a slot's state tells of, and room for its moments."""
        for slot in self._network.slots:
            if slot.blueprint is not None:
                self._plant(slot, slot.blueprint)
            if slot.stage is Stage.TRAINING or slot.is_live:
                self._optimizer.adopt(slot.slot_id, self._network.seed(slot))

    def drop_unfossilized(self) -> None:
        """Takes out every seed that is not there for good."""
        for slot in self._network.slots:
            if slot.obstacle(Action.CULL) is None:
                self._cull(slot)

    def blueprint_at(self, slot: Slot) -> str:
        """Blueprint of the seed in the slot, or of the one that would be put in now."""
        return slot.blueprint or self._next_blueprint(slot)

    def fresh_seeds(self) -> dict[int, nn.Module]:
        """A new seed for each slot without a live one, by depth: as they would begin, and no duds.

        In a slot with the same blueprint it is the same in every interval.
        """
        path = (self._config.seeds.blueprint, "fresh")
        return {
            slot.depth: self._built(
                slot, self.blueprint_at(slot), derive_seed(*path, slot.slot_id), dud=False
            )
            for slot in self._network.slots
            if not slot.is_live
        }

    def _germinate(self, slot: Slot, accuracy: float) -> Outcome:
        blueprint = self._next_blueprint(slot)
        slot.germinate(blueprint, accuracy, blueprint in self._config.duds)
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

    def _plant(self, slot: Slot, blueprint: str) -> None:
        path = ("seed", slot.slot_id, slot.germinations)
        seed = derive_seed(self._config.seeds.blueprint, *path)
        self._network.plant(slot, self._built(slot, blueprint, seed, slot.dud))

    def _built(self, slot: Slot, blueprint: str, seed: int, dud: bool) -> nn.Module:
        module = plant(blueprint, self._network.site(slot).width, seed, dud=dud)
        return module.to(self._config.device).to(memory_format=torch.channels_last)

    def _next_blueprint(self, slot: Slot) -> str:
        candidates = self._config.candidates
        match self._config.blueprint_choice:
            case "fixed":
                return self._config.blueprints.get(slot.slot_id, DEFAULT_BLUEPRINT)
            case "round-robin":
                turn = sum(other.germinations for other in self._network.slots)
                return candidates[turn % len(candidates)]
            case "random":
                path = ("blueprint", slot.slot_id, slot.germinations)
                return candidates[
                    derive_seed(self._config.seeds.blueprint, *path) % len(candidates)
                ]


def empty_slots(host: Host, config: TrainerConfig, train_images: int) -> list[Slot]:
    """The slots that an episode uses, in order of depth.

    Raises ValueError where the settings name a slot that the host does not have, or that the
    episode does not use.
    """
    known = [site.slot_id for site in host.sites]
    used = known if config.slots is None else list(config.slots)
    _require_known("slots", used, known)
    _require_known("blueprints", config.blueprints, known)
    _require_known("planted", config.planted, used)
    steps = config.steps_of_interval(train_images)
    return [
        Slot(
            site.slot_id,
            depth,
            blend_steps=config.blend_intervals * steps,
            alpha_schedule=config.alpha_schedule,
        )
        for depth, site in enumerate(host.sites)
        if site.slot_id in used
    ]


def _require_known(setting: str, named: Iterable[str], known: Sequence[str]) -> None:
    unknown = sorted(set(named) - set(known))
    if unknown:
        raise ValueError(
            f"{setting} names {', '.join(unknown)}; the slots are {', '.join(known) or 'none'}"
        )
