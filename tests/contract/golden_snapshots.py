"""Valid snapshots for every language's tests, and the builders that they are made with."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from leyline.v1.snapshot_pb2 import MultiSlotSnapshot, SlotReading, Stage, StepId

LN_100 = math.log(100)
WORST = 1e6
DORMANT, GERMINATED, TRAINING, BLENDING, FOSSILIZED = Stage.values()[1:]


def slot(depth: int, stage: Stage.ValueType = DORMANT, /, **fields: Any) -> SlotReading:
    """A valid reading: `slot-<depth>` in a stage, with nothing measured but what is given."""
    given: dict[str, Any] = {
        "slot_id": f"slot-{depth}",
        "depth": depth,
        "stage": stage,
        "has_seed": stage != DORMANT,
        "alpha": 1.0 if stage == FOSSILIZED else 0.0,
    }
    return SlotReading(**{**given, **fields})


def bare(slots: Iterable[SlotReading], step: int = 0, **fields: Any) -> MultiSlotSnapshot:
    """A valid snapshot with nothing measured but what is given."""
    step_id = StepId(run_id="golden", episode_index=3, step=step)
    return MultiSlotSnapshot(**{"step_id": step_id, "epoch": step, "slots": list(slots), **fields})


def ordinary(slots: Iterable[SlotReading], step: int = 7, **fields: Any) -> MultiSlotSnapshot:
    """A snapshot as they look in the middle of an episode."""
    given: dict[str, Any] = {
        "global_step": 78 * step,
        "train_loss": 3.4375,
        "val_loss": 3.31,
        "val_accuracy": 0.2134,
        "plateau_epochs": 1,
        "best_val_accuracy": 0.2178,
        "best_val_loss": 3.2975,
        "loss_history": [3.71, 3.55, 3.42, 3.2975, 3.31],
        "accuracy_history": [0.148, 0.171, 0.1956, 0.2178, 0.2134],
        "time_left": 0.65,
        "size_ratio": 1.417,
        "learning_rate": 0.0727,
        "generalization_gap": -0.1275,
    }
    return bare(slots, step, **{**given, **fields})


def lively(depth: int, stage: Stage.ValueType, /, **fields: Any) -> SlotReading:
    """A reading as they look in the middle of an episode."""
    given: dict[str, Any] = {
        "gradient_norm": 0.021 / (depth + 1),
        "activation_sparsity": 0.31 + 0.07 * (depth % 5),
        "epochs_in_stage": depth + 2,
        "seed_cost": 0.1 * 2**depth,
        "gradmax_norm": 0.004 * (depth + 1),
    }
    if stage != DORMANT:
        given["seed_improvement"] = 0.013 * (depth + 1)
    if stage == BLENDING:
        given["alpha"] = 0.375
    if stage in (BLENDING, FOSSILIZED):
        given["ablation_delta"] = 0.11
    return slot(depth, stage, **{**given, **fields})


def golden_snapshots() -> dict[str, tuple[str, MultiSlotSnapshot]]:
    """Valid snapshots by name, each with what it is there for."""
    three = [lively(0, BLENDING), lively(1, DORMANT), lively(2, FOSSILIZED)]
    six = [lively(depth, stage) for depth, stage in enumerate([*Stage.values()[1:], DORMANT])]
    untrained: dict[str, Any] = {
        "val_loss": 4.61,
        "val_accuracy": 0.0112,
        "best_val_loss": 4.61,
        "best_val_accuracy": 0.0112,
        "loss_history": [4.61],
        "accuracy_history": [0.0112],
        "time_left": 1.0,
        "size_ratio": 1.0,
        "learning_rate": 0.1,
    }
    zero_slot: dict[str, Any] = {"gradient_norm": 0.0, "activation_sparsity": 0.0}
    improved: dict[str, Any] = {"seed_improvement": 0.0, "seed_cost": 0.0, "gradmax_norm": 0.0}
    cases: dict[str, tuple[str, MultiSlotSnapshot]] = {
        "one-slot-nothing-measured": ("every optional field unset", bare([slot(0)])),
        "one-slot-untrained": ("the first snapshot of an episode", bare([slot(0)], **untrained)),
        "one-slot-last": (
            "the snapshot that closes an episode",
            ordinary([lively(0, FOSSILIZED)], step=20, time_left=0.0, learning_rate=0.0),
        ),
        "three-slots-untrained": (
            "the first snapshot of an episode",
            bare([slot(0), slot(1), slot(2)], **untrained),
        ),
        "three-slots-ordinary": ("the middle of an episode", ordinary(three)),
        "three-slots-out-of-order": (
            "the same network as three-slots-ordinary: the same vector",
            ordinary([three[2], three[0], three[1]]),
        ),
        "three-slots-ids-against-depth": (
            "the order is that of depth, not that of ids",
            ordinary(
                [
                    lively(2, TRAINING, slot_id="a"),
                    lively(1, GERMINATED, slot_id="b"),
                    lively(0, DORMANT, slot_id="c"),
                ]
            ),
        ),
        "three-slots-depths-with-gaps": (
            "depths need not be dense; 1000 is the greatest",
            ordinary(
                [
                    lively(2, DORMANT, depth=1000),
                    lively(0, DORMANT, depth=7),
                    lively(1, DORMANT, depth=0),
                ]
            ),
        ),
        "three-slots-all-fossilized": (
            "nothing can grow any more",
            ordinary([lively(depth, FOSSILIZED) for depth in range(3)], size_ratio=2.26),
        ),
        "three-slots-plateau": (
            "no improvement for 50 intervals",
            ordinary([lively(depth, DORMANT) for depth in range(3)], step=60, plateau_epochs=50),
        ),
        "three-slots-short-history": (
            "three elements of five: ages 4 and 5 are unset",
            ordinary(three, loss_history=[3.9, 3.8, 3.7], accuracy_history=[0.1, 0.11, 0.12]),
        ),
        "three-slots-uneven-histories": (
            "each history counts its own elements",
            ordinary(three, loss_history=[3.9], accuracy_history=[0.1, 0.11, 0.12, 0.125]),
        ),
        "three-slots-measured-zero": (
            "zero was measured, which is not the same as unset",
            ordinary(
                [slot(depth, GERMINATED, **zero_slot, **improved) for depth in range(3)],
                train_loss=0.0,
                val_loss=0.0,
                val_accuracy=0.0,
                best_val_accuracy=0.0,
                best_val_loss=0.0,
                generalization_gap=0.0,
                learning_rate=0.0,
                loss_history=[0.0] * 5,
                accuracy_history=[0.0] * 5,
            ),
        ),
        "three-slots-perfect": (
            "every image right, no loss left",
            ordinary(three, val_accuracy=1.0, best_val_accuracy=1.0, accuracy_history=[1.0] * 5),
        ),
        "three-slots-diverged": (
            "losses and gradients that were not finite are sent as their upper bounds",
            ordinary(
                [lively(depth, DORMANT, gradient_norm=WORST) for depth in range(3)],
                train_loss=WORST,
                val_loss=WORST,
                loss_history=[3.3, WORST, WORST, WORST, WORST],
                generalization_gap=WORST,
            ),
        ),
        "three-slots-lowest": (
            "the lower bounds of everything that has a sign",
            ordinary(
                [
                    lively(depth, BLENDING, seed_improvement=-1.0, ablation_delta=-WORST)
                    for depth in range(3)
                ],
                generalization_gap=-WORST,
            ),
        ),
        "three-slots-highest": (
            "the upper bounds of everything else",
            ordinary(
                [
                    lively(
                        depth,
                        BLENDING,
                        alpha=1.0,
                        activation_sparsity=1.0,
                        seed_improvement=1.0,
                        seed_cost=WORST,
                        gradmax_norm=WORST,
                        ablation_delta=WORST,
                        epochs_in_stage=2**32 - 1,
                    )
                    for depth in range(3)
                ],
                epoch=2**32 - 1,
                global_step=2**64 - 1,
                plateau_epochs=2**32 - 1,
                size_ratio=WORST,
                learning_rate=WORST,
            ),
        ),
        "three-slots-at-the-clip": (
            "values that fall on the bounds of the vector, and just past them",
            ordinary(
                [
                    lively(0, BLENDING, gradient_norm=0.08, seed_improvement=-0.1),
                    lively(1, BLENDING, gradient_norm=0.0800001, seed_improvement=0.2),
                    lively(2, BLENDING, gradient_norm=0.0799999, seed_improvement=0.2000001),
                ],
                train_loss=2 * LN_100,
                val_loss=2 * LN_100 + 1e-6,
                generalization_gap=math.e - 1,
                learning_rate=0.4,
            ),
        ),
        "three-slots-tiny": (
            "the least doubles do not become unset, nor anything but nearly zero",
            ordinary(
                [lively(depth, BLENDING, gradient_norm=5e-324, alpha=1e-12) for depth in range(3)],
                train_loss=1e-300,
                generalization_gap=-5e-324,
            ),
        ),
        "three-slots-longest-names": (
            "names of 63 characters, with each kind that is admitted",
            ordinary(
                [lively(depth, DORMANT, slot_id=f"{depth}.b_c-" + "x" * 57) for depth in range(3)],
                step_id=StepId(run_id="A.b_c-" + "9" * 57, episode_index=10**9, step=10**9),
            ),
        ),
        "six-slots-every-stage": ("every stage at once", ordinary(six)),
        "six-slots-out-of-order": (
            "the same network as six-slots-every-stage: the same vector",
            ordinary([six[i] for i in (3, 5, 0, 4, 2, 1)]),
        ),
        "six-slots-untrained": (
            "the first snapshot of an episode",
            bare([slot(depth) for depth in range(6)], **untrained),
        ),
        "six-slots-partly-measured": (
            "telemetry of every other slot is missing",
            ordinary([lively(d, TRAINING) if d % 2 else slot(d, TRAINING) for d in range(6)]),
        ),
    }
    for stage, name in zip(Stage.values()[1:], Stage.keys()[1:], strict=True):
        word = name.removeprefix("STAGE_").lower()
        cases[f"one-slot-{word}"] = (f"a slot that is {word}", ordinary([lively(0, stage)]))
    return cases
