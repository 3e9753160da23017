"""The oracle: the most that a policy can gain in an episode which it sees through."""

from __future__ import annotations

from dataclasses import dataclass

from kasmina.network.slot import Action
from kasmina.simulator.blueprint_choice import chosen_blueprint
from kasmina.simulator.growth import saturated
from kasmina.simulator.parameters import Parameters
from kasmina.simulator.schedule import Plan, Prospect, Schedules
from kasmina.simulator.situation import HiddenSlot, SimulationSeeds, Situation


@dataclass(frozen=True)
class Oracle:
    """What is known of the best that can be done in an episode."""

    bound: float
    """No policy's true final accuracy exceeds that of always waiting by more; a fraction."""
    script: dict[int, tuple[Action, str]]
    """Action and slot by step; on the other steps it waits. What somebody could do who sees
    everything hidden, close to the bound. Under round-robin it is of no use, because the blueprints
    that it counts on depend on the other slots."""


def oracle(parameters: Parameters, seeds: SimulationSeeds) -> Oracle:
    """The bound by `kasmina.simulator.schedule`, and a script that comes close."""
    situation = Situation.draw(parameters, seeds.situation)
    prospects = [
        prospect for slot in situation.slots for prospect in _prospects(parameters, seeds, slot)
    ]
    if not prospects:
        return Oracle(0.0, {})
    bound, plans = Schedules(parameters, prospects).bound_and_best()
    room = 1.0 - situation.host_accuracy(parameters.episode.horizon)
    gain = saturated(max(bound, 0.0), parameters.seeds.headroom)
    return Oracle(min(gain, room), _script(plans, situation))


def oracle_return(parameters: Parameters, seeds: SimulationSeeds) -> float:
    """What no policy exceeds: true final accuracy over that of always waiting, a fraction."""
    return oracle(parameters, seeds).bound


def _prospects(parameters: Parameters, seeds: SimulationSeeds, slot: HiddenSlot) -> list[Prospect]:
    found: list[Prospect] = []
    best = 0.0
    for culls, names in enumerate(_germinations(parameters, seeds, slot)):
        effect = max(slot.seeds[name].effect for name in names)
        # A later seed that is no better costs more actions and gains nothing.
        if effect > best:
            best = effect
            found.append(Prospect(slot.depth, effect, culls))
    return found


def _germinations(
    parameters: Parameters, seeds: SimulationSeeds, slot: HiddenSlot
) -> list[tuple[str, ...]]:
    """What each of the slot's germinations may be, as many as fit into the episode.

    Under round-robin the other slots' germinations decide: any candidate may be the first.
    """
    choice = parameters.seeds
    if choice.choice == "round-robin":
        return [choice.candidates]
    return [
        (chosen_blueprint(choice, seeds.blueprint, slot.slot_id, slot.depth, own, 0),)
        for own in range(parameters.episode.horizon // 2)
    ]


def _script(plans: list[Plan], situation: Situation) -> dict[int, tuple[Action, str]]:
    script = {}
    for plan in plans:
        slot_id = situation.slots[plan.slot].slot_id
        probing = [Action.GERMINATE, Action.CULL] * (len(plan.probes) // 2)
        growing = [Action.GERMINATE, Action.ADVANCE, Action.ADVANCE, Action.ADVANCE]
        for step, action in zip(plan.steps, [*probing, *growing], strict=True):
            script[step] = action, slot_id
    return script
