"""The host "simulator" of a specification: no images, no training, a family of situations."""

from __future__ import annotations

from kasmina.simulator.parameters import Parameters, load_family
from leyline.v1.episode_pb2 import Situation
from leyline.v1.trainer_pb2 import (
    ALPHA_SCHEDULE_LINEAR,
    BLUEPRINT_CHOICE_FIXED,
    BLUEPRINT_CHOICE_RANDOM,
    BLUEPRINT_CHOICE_ROUND_ROBIN,
    BlueprintChoice,
    HostSpec,
    RunSpec,
)

NAME = "simulator"
"""Name of the host."""

DEFAULT_FAMILY = "default"
HELD_OUT_FAMILY = "held-out"

_OPTIONS = ("family", "slots")
_MOST_SLOTS = 64
_CHOICES: dict[str, BlueprintChoice.ValueType] = {
    "fixed": BLUEPRINT_CHOICE_FIXED,
    "round-robin": BLUEPRINT_CHOICE_ROUND_ROBIN,
    "random": BLUEPRINT_CHOICE_RANDOM,
}


def is_simulated(spec: RunSpec) -> bool:
    """Whether the run's host is the simulator."""
    return spec.host.name == NAME


def family_of(host: HostSpec) -> Parameters:
    """The family that the host's options name, with as many slots as they say.

    Raises ValueError where there is none; the message begins with "host_options".
    """
    unknown = sorted(set(host.options) - set(_OPTIONS))
    if unknown:
        raise ValueError(
            f"host_options has {', '.join(map(repr, unknown))}; {NAME} knows {', '.join(_OPTIONS)}"
        )
    try:
        family = load_family(host.options.get("family", DEFAULT_FAMILY))
    except ValueError as error:
        raise ValueError(f"host_options family: {error}") from error
    text = host.options.get("slots", str(family.episode.slots))
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= _MOST_SLOTS):
        raise ValueError(
            f"host_options slots of {NAME} is {text!r}; it must be a whole number from 1 to"
            f" {_MOST_SLOTS}"
        )
    return family.with_episode(slots=int(text))


def fill_in(spec: RunSpec) -> None:
    """Fills in what the family says, where the specification does not. Raises as `family_of`."""
    family = family_of(spec.host)
    host, growth = spec.host, spec.growth
    host.options["family"] = host.options.get("family", DEFAULT_FAMILY)
    host.options["slots"] = str(family.episode.slots)
    if not host.slots:
        host.slots.extend(slot_ids(spec))
    spec.training.horizon = spec.training.horizon or family.episode.horizon
    growth.blend_intervals = growth.blend_intervals or family.episode.blend_intervals
    growth.choice = growth.choice or _CHOICES[family.seeds.choice]
    growth.alpha_schedule = growth.alpha_schedule or ALPHA_SCHEDULE_LINEAR
    if growth.choice == BLUEPRINT_CHOICE_FIXED:
        for depth, slot_id in enumerate(host.slots):
            if slot_id not in growth.blueprints:
                candidates = family.seeds.candidates
                growth.blueprints[slot_id] = candidates[depth % len(candidates)]
    elif not growth.candidates:
        growth.candidates.extend(family.seeds.candidates)


def slot_ids(spec: RunSpec) -> tuple[str, ...]:
    """The simulator's slots, from the input on. Raises as `family_of`."""
    return tuple(f"slot-{depth}" for depth in range(family_of(spec.host).episode.slots))


def situation_of(spec: RunSpec) -> Situation:
    """The family of a settled specification as a range of situations: what an episode draws from it
    stays hidden.
    """
    family = spec.host.options["family"]
    return Situation(range=f"{NAME}.{family}", held_out=family == HELD_OUT_FAMILY)


def parameters_of(spec: RunSpec) -> Parameters:
    """What a settled specification simulates. Raises ValueError where that cannot be."""
    growth = spec.growth
    family = family_of(spec.host).with_episode(
        horizon=spec.training.horizon, blend_intervals=growth.blend_intervals
    )
    values = family.to_dict()
    names = {choice: name for name, choice in _CHOICES.items()}
    candidates = list(growth.candidates)
    if growth.choice == BLUEPRINT_CHOICE_FIXED:  # it takes the candidate at the slot's depth
        candidates = [growth.blueprints.get(slot_id, "") for slot_id in spec.host.slots]
    values["seeds"] |= {"choice": names[growth.choice], "candidates": candidates}
    return Parameters.from_dict(values)
