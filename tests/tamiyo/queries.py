"""Queries and snapshots as a trainer sends them."""

from __future__ import annotations

import numpy as np

from leyline.identity import sampling_seed
from leyline.observation import SEED_SPEC
from leyline.v1.decision_pb2 import SELECTION_MODE_SAMPLED, DecisionQuery, SelectionMode
from leyline.v1.snapshot_pb2 import (
    STAGE_BLENDING,
    STAGE_DORMANT,
    MultiSlotSnapshot,
    SlotReading,
    StepId,
)


def snapshot(
    step: int = 0, *, episode: int = 0, run: str = "run", slots: int = 3
) -> MultiSlotSnapshot:
    """Return a valid snapshot; equal arguments make equal ones, others make others."""
    random = np.random.default_rng([step, episode, slots, sum(run.encode())])
    accuracies = sorted(random.uniform(0.1, 0.6, min(step + 1, 5)).tolist())
    losses = sorted(random.uniform(1.0, 4.0, min(step + 1, 5)).tolist(), reverse=True)
    return MultiSlotSnapshot(
        step_id=StepId(run_id=run, episode_index=episode, step=step),
        epoch=step,
        global_step=step * 79,
        train_loss=float(random.uniform(1, 4)) if step else None,
        val_loss=losses[-1],
        val_accuracy=accuracies[-1],
        best_val_accuracy=accuracies[-1],
        best_val_loss=losses[-1],
        loss_history=losses,
        accuracy_history=accuracies,
        slots=[_slot(index, random) for index in random.permutation(slots)],
    )


def _slot(depth: int, random: np.random.Generator) -> SlotReading:
    blending = bool(random.integers(2))
    return SlotReading(
        slot_id=f"slot-{depth}",
        depth=int(depth),
        gradient_norm=float(random.uniform(0.002, 0.03)),
        activation_sparsity=float(random.uniform(0.1, 0.9)),
        has_seed=blending,
        stage=STAGE_BLENDING if blending else STAGE_DORMANT,
        alpha=float(random.uniform(0, 1)) if blending else 0.0,
        epochs_in_stage=int(random.integers(5)),
        seed_improvement=float(random.uniform(-0.05, 0.1)) if blending else None,
    )


def query(
    step: int = 0,
    *,
    episode: int = 0,
    run: str = "run",
    slots: int = 3,
    mode: SelectionMode.ValueType = SELECTION_MODE_SAMPLED,
    version: str | None = None,
) -> DecisionQuery:
    """Return a valid query for the seed spec."""
    return DecisionQuery(
        snapshot=snapshot(step, episode=episode, run=run, slots=slots),
        spec_fingerprint=SEED_SPEC.fingerprint,
        sampling_seed=sampling_seed(7, episode, step),
        mode=mode,
        policy_version=version,
    )
