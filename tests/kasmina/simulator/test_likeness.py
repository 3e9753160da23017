"""To who plays it, the simulator is a trainer of networks like the real one."""

from __future__ import annotations

import random
from dataclasses import asdict
from typing import Any

import pytest
from tests.kasmina.simulator.episodes import family

from kasmina.data.dataset import Dataset
from kasmina.network.slot import Action
from kasmina.simulator.policies import Choice
from kasmina.simulator.situation import SimulationSeeds
from kasmina.simulator.trainer import SimulatedTrainer
from kasmina.training.configuration import BlueprintChoice, EpisodeSeeds, TrainerConfig
from kasmina.training.telemetry import Snapshot
from kasmina.training.trainer import GrowthTrainer

HORIZON = 24
CANDIDATES = ("conv1x1", "norm", "depthwise")
SLOTS = ("slot-0", "slot-1", "slot-2", "slot-3")

_RULES = {"slot_id", "depth", "stage", "has_seed", "alpha", "epochs_in_stage", "blueprint"}


def shape(snapshot: Snapshot) -> dict[str, Any]:
    """What a snapshot says by the rules alone, and what else was measured, whatever came out."""
    values = asdict(snapshot)
    slots = values.pop("slots")
    return {
        "epoch": values["epoch"],
        "time_left": values["time_left"],
        "histories": (len(values["loss_history"]), len(values["accuracy_history"])),
        "measured": {name for name, value in values.items() if value is not None},
        "slots": [{name: slot[name] for name in _RULES} for slot in slots],
        "slots measured": [{name for name in slot if slot[name] is not None} for slot in slots],
    }


def by_chance(seed: int) -> list[Choice]:
    """Actions at slots, one of which there is not; growing more often than not."""
    chance = random.Random(seed)
    actions = [*Action, Action.GERMINATE, Action.ADVANCE, Action.ADVANCE, Action.ADVANCE]
    return [(chance.choice(actions), chance.choice(SLOTS)) for _ in range(HORIZON)]


@pytest.mark.parametrize("choice", ["fixed", "round-robin", "random"])
@pytest.mark.parametrize("seed", range(2))
def test_the_same_actions_lead_to_the_same_stages_reasons_and_measurements(
    stripes: Dataset, seed: int, choice: BlueprintChoice
) -> None:
    real = GrowthTrainer(
        TrainerConfig(
            seeds=EpisodeSeeds.of(seed),
            horizon=HORIZON,
            channels=(4, 6, 8),
            batch_size=16,
            interval_batches=1,
            blend_intervals=2,
            blueprint_choice=choice,
            blueprints=dict(zip(SLOTS, CANDIDATES, strict=False)) if choice == "fixed" else {},
            candidates=() if choice == "fixed" else CANDIDATES,
            threads=1,
        ),
        stripes,
    )
    simulated = SimulatedTrainer(
        family(
            episode={"horizon": HORIZON, "blend_intervals": 2},
            seeds={"choice": choice, "candidates": CANDIDATES, "bad_share": 0.0},
        ),
        SimulationSeeds(blueprint=EpisodeSeeds.of(seed).blueprint),
    )
    assert shape(simulated.snapshot()) == shape(real.snapshot())
    for action, slot_id in by_chance(seed):
        assert simulated.apply(action, slot_id) == real.apply(action, slot_id)
        assert shape(simulated.snapshot()) == shape(real.snapshot())
        real.train_interval()
        simulated.train_interval()
        assert shape(simulated.snapshot()) == shape(real.snapshot())
    assert simulated.finished
    assert real.finished
