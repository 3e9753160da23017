"""Policies to calibrate a family by. They see snapshots alone; the scripted one sees everything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kasmina.network.slot import Action, Stage
from kasmina.simulator.draw import uniforms
from kasmina.simulator.oracle import oracle
from kasmina.simulator.parameters import Parameters
from kasmina.simulator.situation import SimulationSeeds
from kasmina.training.telemetry import SlotReading, Snapshot

Choice = tuple[Action, str | None]
"""An action and its slot; None on WAIT."""

Policy = Callable[[Snapshot], Choice]

WAIT: Choice = (Action.WAIT, None)


def wait(snapshot: Snapshot) -> Choice:
    """Waits, whatever it sees."""
    return WAIT


def random_policy(seed: int, horizon: int) -> Policy:
    """Each action and each slot is as likely as any other."""
    draws = uniforms(seed, "random policy", count=2 * horizon).tolist()
    actions = tuple(Action)

    def decide(snapshot: Snapshot) -> Choice:
        of_action, of_slot = draws[2 * snapshot.epoch : 2 * snapshot.epoch + 2]
        action = actions[int(of_action * len(actions))]
        if action is Action.WAIT:
            return WAIT
        return action, snapshot.slots[int(of_slot * len(snapshot.slots))].slot_id

    return decide


def scripted(script: Mapping[int, tuple[Action, str]]) -> Policy:
    """Acts at the steps that the script names and waits at the others."""

    def decide(snapshot: Snapshot) -> Choice:
        return script.get(snapshot.epoch, WAIT)

    return decide


@dataclass(frozen=True)
class Heuristic:
    """What a person would do who knows the default family; its thresholds are tuned to that.

    The first rule that applies, at the deepest slot where it does:

    1. A seed is BLENDING, and the network is better off without it (`harm`): CULL. It is fully
       blended in and is worth having (`worth`): ADVANCE. It has been blending for `patience` and
       nobody knows: the sign of its ablation decides.
    2. A seed has been TRAINING for `training`: ADVANCE. Two intervals later it is still there, so
       it is not finite: CULL.
    3. A seed is GERMINATED: CULL where its GradMax norm is `faint`, otherwise ADVANCE.
    4. A slot is empty and there is time for a seed (`least_intervals`): GERMINATE.
    """

    harm: float = -0.12
    """Ablation's change of loss at or below which a seed goes, nats."""
    worth: float = 0.1
    """Ablation's change of loss from which on a seed stays, nats."""
    patience: int = 5
    """Intervals of BLENDING."""
    training: int = 4
    """Intervals of TRAINING."""
    faint: float = 0.85
    """GradMax norm below which a seed is not tried, nats per weight."""
    least_intervals: float = 7.0
    """Intervals that must be left for a germination."""

    def __call__(self, snapshot: Snapshot) -> Choice:
        """The action for what the snapshot shows."""
        deepest_first = snapshot.slots[::-1]
        for rule in (self._blending, self._training, self._germinated):
            for slot in deepest_first:
                action = rule(slot)
                if action is not None:
                    return action, slot.slot_id
        if intervals_left(snapshot) >= self.least_intervals:
            for slot in deepest_first:
                if slot.stage is Stage.DORMANT:
                    return Action.GERMINATE, slot.slot_id
        return WAIT

    def _blending(self, slot: SlotReading) -> Action | None:
        delta = slot.ablation_delta
        if slot.stage is not Stage.BLENDING or delta is None:
            return None
        if delta <= self.harm:
            return Action.CULL
        if slot.alpha < 1.0:
            return None
        if delta >= self.worth:
            return Action.ADVANCE
        if slot.epochs_in_stage >= self.patience:
            return Action.ADVANCE if delta > 0.0 else Action.CULL
        return None

    def _training(self, slot: SlotReading) -> Action | None:
        if slot.stage is not Stage.TRAINING or slot.epochs_in_stage < self.training:
            return None
        return Action.ADVANCE if slot.epochs_in_stage < self.training + 2 else Action.CULL

    def _germinated(self, slot: SlotReading) -> Action | None:
        if slot.stage is not Stage.GERMINATED:
            return None
        faint = slot.gradmax_norm is not None and slot.gradmax_norm < self.faint
        return Action.CULL if faint else Action.ADVANCE


def intervals_left(snapshot: Snapshot) -> float:
    """Intervals still to come."""
    done = 1.0 - snapshot.time_left
    return snapshot.epoch * snapshot.time_left / done if done > 0.0 else float("inf")


PolicyOfEpisode = Callable[[Parameters, SimulationSeeds], Policy]
"""What plays an episode of given seeds."""

POLICIES: Mapping[str, PolicyOfEpisode] = {
    "wait": lambda parameters, seeds: wait,
    "random": lambda parameters, seeds: random_policy(seeds.noise, parameters.episode.horizon),
    "heuristic": lambda parameters, seeds: Heuristic(),
    "clairvoyant": lambda parameters, seeds: scripted(oracle(parameters, seeds).script),
}
"""By name. "clairvoyant" plays the oracle's own script: how close to the bound one can come."""
