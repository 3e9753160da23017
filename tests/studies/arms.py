"""Arms of a study: episodes that are the same but for one thing, played two at a time, and kept.

A study names its arms. Arms that begin like a twin that only waits go on from the twin's
checkpoint, which is bit for bit what they would have come to by themselves. Each result is a line
of a file as soon as it is there, so that a study that was interrupted goes on with what is missing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from kasmina.data.dataset import Dataset, DatasetSettings, load_dataset
from kasmina.network.slot import Action
from kasmina.training.configuration import TrainerConfig
from kasmina.training.trainer import GrowthTrainer


@dataclass(frozen=True)
class PlannedAction:
    """An action before an interval is trained."""

    interval: int
    action: Action
    slot_id: str


def grown_at(
    interval: int, slot_id: str, *, training: int = 1, blending: int = 3
) -> tuple[PlannedAction, ...]:
    """A seed's whole life: germinated and set to TRAINING at once, as two actions before the same
    interval, then BLENDING and fossilised as soon as it may be."""
    blend = interval + training
    return (
        PlannedAction(interval, Action.GERMINATE, slot_id),
        PlannedAction(interval, Action.ADVANCE, slot_id),
        PlannedAction(blend, Action.ADVANCE, slot_id),
        PlannedAction(blend + blending, Action.ADVANCE, slot_id),
    )


@dataclass(frozen=True)
class Arm:
    """One episode of a study."""

    cell: str
    """What it is an instance of: arms that differ in their seed alone have one cell."""
    seed: int
    config: TrainerConfig
    plan: tuple[PlannedAction, ...] = ()
    variant: str = ""
    """Name of what is exchanged in the trainer, in the study's `variants`; empty: nothing."""
    like_twin: bool = True
    """Whether its settings are the twin's."""
    until: int | None = None
    """Interval before which it stops; None: at its horizon."""

    @property
    def first_action(self) -> int:
        """Interval up to which the arm is its waiting twin."""
        return min((action.interval for action in self.plan), default=self.config.horizon)

    @property
    def follows_twin(self) -> bool:
        """Whether it goes on from its twin's checkpoint: not where it acts at once, nor where its
        settings are others."""
        return bool(self.plan) and self.first_action > 0 and self.like_twin

    @property
    def key(self) -> str:
        """Names the arm among all that could be played."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Result:
    """What an arm came to."""

    key: str
    cell: str
    seed: int
    first: int
    """Interval at which it began; before that it is its twin."""
    accuracies: list[float]
    """Validation accuracy after each interval from `first` on."""
    multiply_adds_spent: int | None
    seconds: float


Variants = dict[str, Callable[[], None]]
"""What a variant exchanges, by name: called in the process that plays the arm, before it does."""


@dataclass(frozen=True)
class Study:
    """How a study's arms are played.

    Attributes:
        data: the images, the same for all arms.
        folder: results and twins' checkpoints.
        results: the file of results.
    """

    data: DatasetSettings
    folder: Path
    variants: Variants = dataclasses.field(default_factory=dict)

    @property
    def results(self) -> Path:
        return self.folder / "results.jsonl"

    def play(self, twins: Sequence[Arm], arms: Sequence[Arm], workers: int) -> list[Result]:
        """Results of twins and arms, in that order; those that the file has are not played again.

        Each arm's twin is that with its seed. The twins save checkpoints at the intervals at which
        arms leave them.
        """
        leaves: dict[int, set[int]] = {}
        for arm in arms:
            if arm.follows_twin:
                leaves.setdefault(arm.seed, set()).add(arm.first_action)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._play([(twin, sorted(leaves.get(twin.seed, set()))) for twin in twins], workers)
        self._play([(arm, []) for arm in arms], workers)
        known = self._known()
        return [known[arm.key] for arm in (*twins, *arms)]

    def checkpoint(self, seed: int, interval: int) -> Path:
        """Where the twin with that seed leaves its checkpoint."""
        return self.folder / f"twin-{seed}-{interval}.safetensors"

    def _known(self) -> dict[str, Result]:
        if not self.results.exists():
            return {}
        lines = self.results.read_text().splitlines()
        results = [Result(**json.loads(line)) for line in lines if line.endswith("}")]
        return {result.key: result for result in results}

    def _play(self, jobs: Sequence[tuple[Arm, list[int]]], workers: int) -> None:
        known = self._known()
        missing = [job for job in jobs if job[0].key not in known]
        if not missing:
            return
        began = time.monotonic()
        # A fresh process for each arm: what a variant exchanged ends with it.
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, spawn, max_tasks_per_child=1) as pool:
            running = [pool.submit(_play_arm, self, arm, saves) for arm, saves in missing]
            for done, future in enumerate(as_completed(running), 1):
                result = future.result()
                with self.results.open("a") as file:
                    file.write(json.dumps(dataclasses.asdict(result)) + "\n")
                left = (time.monotonic() - began) / done * (len(missing) - done)
                print(
                    f"{done}/{len(missing)} {result.cell}, seed {result.seed}:"
                    f" {100 * result.accuracies[-1]:.2f} % in {result.seconds:.0f} s;"
                    f" about {left / 60:.0f} min left",
                    file=sys.stderr,
                    flush=True,
                )


@cache
def _dataset(data: DatasetSettings) -> Dataset:
    return load_dataset(data)


def _play_arm(study: Study, arm: Arm, saves: Iterable[int]) -> Result:
    torch.set_num_threads(1)
    if arm.variant:
        study.variants[arm.variant]()
    dataset = _dataset(study.data)
    began = time.monotonic()
    if arm.follows_twin:
        trainer = GrowthTrainer.load(study.checkpoint(arm.seed, arm.first_action), dataset)
    else:
        trainer = GrowthTrainer(arm.config, dataset)
    first = trainer.interval
    accuracies, spent = [], None
    end = arm.config.horizon if arm.until is None else arm.until
    while trainer.interval < end:
        if trainer.interval in saves and trainer.interval > 0:
            trainer.save(study.checkpoint(arm.seed, trainer.interval))
        for action in arm.plan:
            if action.interval == trainer.interval:
                outcome = trainer.apply(action.action, action.slot_id)
                if not outcome.executed:
                    raise RuntimeError(f"{arm.cell}: {action} did nothing: {outcome.no_op_reason}")
        facts = trainer.train_interval()
        accuracies.append(facts.val_accuracy)
        spent = facts.multiply_adds_spent
    seconds = time.monotonic() - began
    return Result(arm.key, arm.cell, arm.seed, first, accuracies, spent, seconds)


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Puts a study's record beside its finding, as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
