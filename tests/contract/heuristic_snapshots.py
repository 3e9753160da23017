"""Valid snapshots at random, made to meet the heuristic's rules: the same ones always."""

from __future__ import annotations

from random import Random

from tests.contract.golden_snapshots import BLENDING, DORMANT, FOSSILIZED, GERMINATED, TRAINING

from leyline.v1.snapshot_pb2 import MultiSlotSnapshot, SlotReading, Stage, StepId

RUN_SEED = 42
"""Of the run that the snapshots are said to be of; their queries' sampling seeds follow from it."""

# Each list has the threshold of its rule and what lies next to it on either side.
_IMPROVEMENTS = (-0.2, -0.0501, -0.05, -0.0499, 0.0, 0.0049, 0.005, 0.0051, 0.08, None)
_ALPHAS = (0.0, 0.5, 0.9999, 1.0, 1.0, 1.0)
_INTERVALS = (0, 1, 2, 3, 4, 5, 6, 7, 20)
_TIMES_LEFT = (None, 0.0, 0.2999, 0.3, 0.3001, 0.7, 1.0)
_GAINS = (-0.02, 0.0, 0.0049, 0.005, 0.0051, 0.03)
_QUIET = (DORMANT, DORMANT, FOSSILIZED)
_BUSY = (DORMANT, GERMINATED, TRAINING, TRAINING, BLENDING, BLENDING, BLENDING, FOSSILIZED)


def heuristic_snapshots(count: int = 500) -> list[MultiSlotSnapshot]:
    """Return so many snapshots of 1 to 6 slots, each of another step of one episode."""
    random = Random(7)
    return [_snapshot(step, random) for step in range(count)]


def _snapshot(step: int, random: Random) -> MultiSlotSnapshot:
    slots = random.randrange(1, 7)
    # Nothing grows beside a seed that is on its way, so half of the networks have none.
    stages = random.choice((_QUIET, _BUSY))
    readings = [_slot(depth, random.choice(stages), random) for depth in range(slots)]
    random.shuffle(readings)
    accuracies: list[float] = []
    for _ in range(random.randrange(6)):
        accuracies.append(round((accuracies or [0.3])[-1] + random.choice(_GAINS), 4))
    return MultiSlotSnapshot(
        step_id=StepId(run_id="heuristic", episode_index=0, step=step),
        epoch=random.choice((0, 1, 2, 3, 20)),
        plateau_epochs=random.choice((0, 0, 1, 2, 3)),
        accuracy_history=accuracies,
        time_left=random.choice(_TIMES_LEFT),
        slots=readings,
    )


def _slot(depth: int, stage: Stage.ValueType, random: Random) -> SlotReading:
    alphas = {BLENDING: random.choice(_ALPHAS), FOSSILIZED: 1.0}
    return SlotReading(
        # Names go against the order of depth, which is the one that counts.
        slot_id=f"slot-{9 - depth}",
        depth=depth,
        stage=stage,
        has_seed=stage != DORMANT,
        alpha=alphas.get(stage, 0.0),
        epochs_in_stage=random.choice(_INTERVALS),
        seed_improvement=None if stage == DORMANT else random.choice(_IMPROVEMENTS),
    )
