"""Where and when does a seed pay? The weak host alone, and one seed by depth and time.

    python -m tests.studies.depth_and_time --seeds 3 --out docs/findings/depth-and-time.json
    python -m tests.studies.depth_and_time --baseline --out docs/findings/baseline.json

Without seeds, on all of CIFAR-100 for 30 epochs (`--baseline`): the host is meant to be weak, and
to reach 40 to 50 %. With one conv3x3 seed at each slot: in the network from the start, and grown
early, in the middle and late in an episode of 20 intervals of 10,000 images, each beside the twin
with the same weights, order and augmentation that only waits.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
from pathlib import Path
from typing import Any

import torch
from tests.paired import interval_of
from tests.studies.arms import Arm, Result, Study, grown_at, write_record
from tests.studies.picture import draw_curves

from kasmina.data.dataset import DatasetSettings
from kasmina.training.configuration import EpisodeSeeds, TrainerConfig

SLOTS = ("slot-0", "slot-1", "slot-2")
TIMES = {"early": 0, "middle": 7, "late": 13}
"""Interval of germination, of 20."""
HORIZON = 20
INTERVAL_BATCHES = 78
BLUEPRINT = "conv3x3"


def config_of(seed: int) -> TrainerConfig:
    """An episode of 20 intervals of 9,984 images."""
    return TrainerConfig(
        seeds=EpisodeSeeds.of(seed), horizon=HORIZON, interval_batches=INTERVAL_BATCHES, threads=1
    )


def twin_of(seed: int) -> Arm:
    """The episode that only waits."""
    return Arm("waits", seed, config_of(seed))


def arms_of(seed: int) -> list[Arm]:
    """One seed at each slot, at each time."""
    config = config_of(seed)
    arms = []
    for slot in SLOTS:
        planted = dataclasses.replace(config, planted={slot: BLUEPRINT})
        arms.append(Arm(f"{slot}, from the start", seed, planted))
        arms += [
            Arm(f"{slot}, {name}", seed, config, grown_at(interval, slot))
            for name, interval in TIMES.items()
        ]
    return arms


def differences(results: list[Result]) -> dict[str, list[float]]:
    """Final accuracy minus that of the twin with the same seed, in points, by cell."""
    twins = {result.seed: result.accuracies[-1] for result in results if result.cell == "waits"}
    cells: dict[str, list[float]] = {}
    for result in results:
        if result.cell != "waits":
            gain = 100.0 * (result.accuracies[-1] - twins[result.seed])
            cells.setdefault(result.cell, []).append(round(gain, 2))
    return cells


def arms_at(slot: str, results: list[Result]) -> list[Result]:
    """The arms with a seed at that slot, and those that wait."""
    return [result for result in results if result.cell == "waits" or slot in result.cell]


def table(cells: dict[str, list[float]]) -> str:
    """By slot and time: the mean of the paired differences, its 95 % interval, and each."""
    lines = ["| grown | slot-0 | slot-1 | slot-2 |", "|---|---|---|---|"]
    for when in ("from the start", *TIMES):
        row = [f"| {when} "]
        for slot in SLOTS:
            values = cells[f"{slot}, {when}"]
            mean, half = interval_of(values)
            each = ", ".join(f"{value:+.2f}" for value in values)
            row.append(f"| {mean:+.2f} ± {half:.2f} ({each}) ")
        lines.append("".join(row) + "|")
    return "\n".join(lines)


def baseline(seeds: int) -> list[Arm]:
    """The host without seeds on all of CIFAR-100: 30 epochs."""
    return [
        Arm("baseline", seed, TrainerConfig(seeds=EpisodeSeeds.of(seed), horizon=30, threads=1))
        for seed in range(seeds)
    ]


def main() -> int:
    """Plays what is missing and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="episodes at a time")
    parser.add_argument("--baseline", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("build/studies/depth-and-time"))
    parser.add_argument("--location", type=Path, default=None, help="where CIFAR-100 is")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()

    data = DatasetSettings("cifar100", options.location, validation_images=5_000)
    study = Study(data, options.folder)
    if options.baseline:
        results = study.play(baseline(options.seeds), [], options.workers)
        for result in results:
            curve = ", ".join(f"{100 * accuracy:.1f}" for accuracy in result.accuracies)
            print(f"seed {result.seed}: {curve} % in {result.seconds:.0f} s")
        panels = {"the weak host on all of CIFAR-100": results}
        record: dict[str, Any] = {"results": [dataclasses.asdict(one) for one in results]}
    else:
        twins = [twin_of(seed) for seed in range(options.seeds)]
        arms = [arm for seed in range(options.seeds) for arm in arms_of(seed)]
        results = study.play(twins, arms, options.workers)
        cells = differences(results)
        panels = {slot: arms_at(slot, results) for slot in SLOTS}
        record = {"points": cells, "results": [dataclasses.asdict(one) for one in results]}
        waits = [100 * one.accuracies[-1] for one in results if one.cell == "waits"]
        print(f"waits: {', '.join(f'{accuracy:.2f}' for accuracy in waits)} %\n\n{table(cells)}")
    if options.out is not None:
        machine = f"{platform.machine()}, torch {torch.__version__}, one thread an episode"
        write_record(options.out, record | {"seeds": options.seeds, "machine": machine})
        unit = "epoch" if options.baseline else "interval of 9,984 images"
        draw_curves(panels, unit, options.out.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
