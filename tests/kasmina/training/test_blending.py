"""What a seed's first blending interval costs, against a twin that waits.

The bar: at most one point, in the median of five seeds, at every slot, also when it is grown from
the first interval on. These are the short forms of tests/studies/seeding.py, which has more images
and more times of growing.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from kasmina.data.dataset import load_dataset
from kasmina.data.errors import DatasetNotFound
from kasmina.data.images import Dataset
from kasmina.data.settings import DatasetSettings
from kasmina.network.slot import Action, Stage
from kasmina.training.configuration import EpisodeSeeds, TrainerConfig
from kasmina.training.telemetry import SlotReading
from kasmina.training.trainer import GrowthTrainer


def reading(trainer: GrowthTrainer, slot_id: str) -> SlotReading:
    return next(slot for slot in trainer.snapshot().slots if slot.slot_id == slot_id)


def first_blend(trainer: GrowthTrainer, slot_id: str) -> float:
    """Accuracy after one interval of training and one of blending, a fraction."""
    assert trainer.apply(Action.GERMINATE, slot_id).executed
    for stage in (Stage.TRAINING, Stage.BLENDING):
        assert trainer.apply(Action.ADVANCE, slot_id).executed
        assert reading(trainer, slot_id).stage is stage
        trainer.train_interval()
    return trainer.snapshot().val_accuracy


def differences(config: TrainerConfig, dataset: Dataset, folder: Path) -> dict[str, float]:
    """Grown minus waiting after the first blending interval, in points, by slot."""
    twin = GrowthTrainer(config, dataset)
    start = folder / f"{config.seeds.initialization}.safetensors"
    twin.save(start)
    for _ in range(2):
        twin.train_interval()
    waiting = twin.snapshot().val_accuracy
    costs = {}
    for slot_id in twin.slot_ids:
        arm = GrowthTrainer.load(start, dataset)
        costs[slot_id] = 100.0 * (first_blend(arm, slot_id) - waiting)
        ratio = reading(arm, slot_id).output_ratio
        assert ratio is not None
        assert ratio < 4.0  # out of bounds, it was 29 to 36 times the host's norm
    return costs


def assert_the_bar_holds(dataset: Dataset, folder: Path, **settings: int) -> None:
    by_slot: dict[str, list[float]] = {}
    for seed in range(5):
        config = TrainerConfig(seeds=EpisodeSeeds.of(seed), threads=1, **settings)  # type: ignore[arg-type]
        for slot_id, points in differences(config, dataset, folder).items():
            by_slot.setdefault(slot_id, []).append(points)
    medians = {slot_id: statistics.median(points) for slot_id, points in by_slot.items()}
    print(f"{dataset.name}: points by slot {by_slot}, medians {medians}")
    assert min(medians.values()) >= -1.0, (medians, by_slot)


def test_alpha_rises_with_every_optimiser_step(stripes: Dataset) -> None:
    config = TrainerConfig(
        channels=(4, 6, 8), batch_size=16, interval_batches=5, blend_intervals=2, threads=1
    )
    trainer = GrowthTrainer(config, stripes)
    for action in (Action.GERMINATE, Action.ADVANCE, Action.ADVANCE):
        trainer.apply(action, "slot-1")
    alphas: list[float] = [reading(trainer, "slot-1").alpha]
    for _ in range(2):
        trainer.train_interval(lambda done, of: alphas.append(reading(trainer, "slot-1").alpha))
    assert alphas == pytest.approx([step / 10 for step in range(11)])
    assert alphas[-1] == 1.0


def test_the_first_blend_on_digits_costs_at_most_a_point_in_the_median_of_five(
    tmp_path: Path,
) -> None:
    dataset = load_dataset(DatasetSettings("digits", validation_images=400))
    assert_the_bar_holds(dataset, tmp_path, batch_size=32)


@pytest.mark.lengthy
def test_the_first_blend_on_cifar_100_costs_at_most_a_point_in_the_median_of_five(
    tmp_path: Path,
) -> None:
    try:
        dataset = load_dataset(DatasetSettings("cifar100", validation_images=5_000))
    except DatasetNotFound as missing:
        pytest.skip(str(missing))
    assert_the_bar_holds(dataset, tmp_path, interval_batches=40)
