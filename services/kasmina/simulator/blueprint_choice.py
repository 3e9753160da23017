"""Which blueprint a germination takes."""

from __future__ import annotations

from kasmina.randomness import derive_seed
from kasmina.simulator.parameters import SeedParameters


def chosen_blueprint(
    seeds: SeedParameters, seed: int, slot_id: str, depth: int, own: int, all_slots: int
) -> str:
    """The blueprint of the next germination.

    `own` and `all_slots` count the germinations so far, in the slot and in the network; `seed` is
    the episode's blueprint seed.
    """
    known = seeds.candidates
    match seeds.choice:
        case "fixed":
            return known[depth % len(known)]
        case "round-robin":
            return known[all_slots % len(known)]
        case "random":
            return known[derive_seed(seed, "blueprint", slot_id, own) % len(known)]
