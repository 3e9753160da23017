"""What does a seed's first blending interval cost, against a twin that waits?

    python tests/studies/first_blend.py --seeds 5 --out docs/findings/first-blend.json

A seed is germinated, trains for one interval on the shadow path and begins to blend. The validation
accuracy after its first blending interval is compared with that of the twin, the same episode
without the seed, at the same interval. Up to there the two are the same network bit for bit, so the
grown arms start from the twin's checkpoints.

The bar: in the median over the seeds, no slot loses more than one point, whenever it is grown.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kasmina.data.dataset import Dataset, DatasetSettings, load_dataset
from kasmina.network.slot import Action, Stage
from kasmina.training.configuration import TrainerConfig
from kasmina.training.trainer import GrowthTrainer

BAR_POINTS = -1.0
"""Least median difference to the twin, in points of validation accuracy."""


@dataclass(frozen=True)
class Start:
    """When a seed begins."""

    name: str
    interval: int
    """At which it is germinated."""
    at_once: bool
    """Whether it trains in that interval already, rather than in the one after it."""

    @property
    def first_blend(self) -> int:
        """The interval in which it begins to blend."""
        return self.interval + (1 if self.at_once else 2)


STARTS = (
    Start("0, training at once", 0, at_once=True),
    Start("0", 0, at_once=False),
    Start("4", 4, at_once=False),
)


@dataclass(frozen=True)
class Comparison:
    """One grown arm and its twin, after the first blending interval."""

    seed: int
    slot_id: str
    start: str
    grown: float
    """Validation accuracy, a fraction."""
    twin: float
    output_ratio: float
    """Norm of f(h) over the norm of h in that interval."""

    @property
    def points(self) -> float:
        """Grown minus twin, in points."""
        return 100.0 * (self.grown - self.twin)


def compare(
    config: TrainerConfig, dataset: Dataset, starts: Sequence[Start], folder: Path
) -> Iterator[Comparison]:
    """Every slot and every start against the twin that waits, all with the seed of `config`."""
    twin = GrowthTrainer(config, dataset)
    accuracies: list[float] = []
    for interval in range(max(start.first_blend for start in starts) + 1):
        if any(start.interval == interval for start in starts):
            twin.save(folder / f"{interval}.safetensors")
        accuracies.append(twin.train_interval().val_accuracy)
    for start in starts:
        for slot_id in twin.slot_ids:
            arm = GrowthTrainer.load(folder / f"{start.interval}.safetensors", dataset)
            grown = _first_blend(arm, slot_id, start)
            reading = next(slot for slot in arm.snapshot().slots if slot.slot_id == slot_id)
            yield Comparison(
                seed=config.seed,
                slot_id=slot_id,
                start=start.name,
                grown=grown,
                twin=accuracies[start.first_blend],
                output_ratio=reading.output_ratio or 0.0,
            )


def _first_blend(arm: GrowthTrainer, slot_id: str, start: Start) -> float:
    arm.apply(Action.GERMINATE, slot_id)
    if not start.at_once:
        arm.train_interval()
    for stage in (Stage.TRAINING, Stage.BLENDING):
        arm.apply(Action.ADVANCE, slot_id)
        reading = next(slot for slot in arm.snapshot().slots if slot.slot_id == slot_id)
        assert reading.stage is stage
        accuracy = arm.train_interval().val_accuracy
    return accuracy


def medians(comparisons: Sequence[Comparison]) -> dict[tuple[str, str], float]:
    """Median difference in points, by start and slot."""
    cells: dict[tuple[str, str], list[float]] = {}
    for comparison in comparisons:
        cells.setdefault((comparison.start, comparison.slot_id), []).append(comparison.points)
    return {cell: statistics.median(values) for cell, values in cells.items()}


def table(comparisons: Sequence[Comparison]) -> str:
    """The comparisons as a Markdown table."""
    lines = [
        "| grown at interval | slot | median | each seed (points) | norm f(h) / h | twin at |",
        "|---|---|---|---|---|---|",
    ]
    for (start, slot_id), median in medians(comparisons).items():
        rows = [row for row in comparisons if (row.start, row.slot_id) == (start, slot_id)]
        each = ", ".join(f"{row.points:+.2f}" for row in rows)
        ratio = statistics.median(row.output_ratio for row in rows)
        twin = 100.0 * statistics.median(row.twin for row in rows)
        lines.append(
            f"| {start} | {slot_id} | {median:+.2f} | {each} | {ratio:.2f} | {twin:.1f} % |"
        )
    return "\n".join(lines)


def main() -> int:
    """Runs the study and says whether the bar holds: exit status 0, or 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--interval-batches", type=int, default=78)
    parser.add_argument("--validation-images", type=int, default=5_000)
    parser.add_argument("--location", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()

    began = time.perf_counter()
    dataset = load_dataset(
        DatasetSettings("cifar100", options.location, validation_images=options.validation_images)
    )
    comparisons: list[Comparison] = []
    for seed in range(options.seeds):
        config = TrainerConfig(seed=seed, interval_batches=options.interval_batches, threads=1)
        with tempfile.TemporaryDirectory() as folder:
            for comparison in compare(config, dataset, STARTS, Path(folder)):
                comparisons.append(comparison)
                print(
                    f"seed {seed} {comparison.slot_id} at {comparison.start}:"
                    f" {comparison.points:+.2f} points",
                    file=sys.stderr,
                    flush=True,
                )
    holds = min(medians(comparisons).values()) >= BAR_POINTS
    seconds = time.perf_counter() - began
    print(table(comparisons))
    print(f"\nbar of {BAR_POINTS:+.1f} points {'holds' if holds else 'FAILS'}; {seconds:.0f} s")
    if options.out is not None:
        settings = {name: value for name, value in config.to_dict().items() if name != "seed"}
        record = {
            "seeds": options.seeds,
            "config": settings,
            "validation_images": options.validation_images,
            "seconds": round(seconds),
            "holds": holds,
            "comparisons": [asdict(row) | {"points": round(row.points, 3)} for row in comparisons],
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=1) + "\n")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
