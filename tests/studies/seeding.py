"""How must an isolated seed be trained and blended, so that its first interval in the network does
not wreck it?

    python -m tests.studies.seeding --seeds 5 --out docs/findings/seeding.json

Ways to train it while the host must not notice:

- `shadow`: through what follows the slot, which normalises with the shadow batch;
- `shadow, running statistics`: the same, normalising with running statistics, as validation does;
- `straight-through`: by the gradient at the host's activation, which costs no second pass through
  what follows, and never answers to the seed (h + s - s.detach()).

Each at every slot, germinated at the start and after six intervals. Then, on the shadow path: how
long it trains before it blends, over how many intervals and along which curve alpha rises.
Differences in validation accuracy to the twin that waits: after the first blending interval, and
some intervals after that.

    python -m tests.studies.seeding --to-the-end --out docs/findings/seeding-to-the-end.json

The two kinds of shadow path once more, to the end of the episode, where batch norms follow the
slot: they are the same at the last one.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import platform
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from tests.paired import interval_of
from tests.studies.arms import Arm, Result, Study, grown_at, write_record
from tests.studies.picture import draw_differences
from torch import Tensor, nn

import kasmina.network.shadow
import kasmina.training.interval
from kasmina.data.dataset import DatasetSettings
from kasmina.network.growth import GrowingNetwork, Trace
from kasmina.network.shadow import ShadowPass, kept_buffers
from kasmina.network.slot import AlphaSchedule, Slot
from kasmina.randomness import set_aside
from kasmina.training.configuration import EpisodeSeeds, TrainerConfig

HORIZON = 20
"""Of the learning rate's schedule; arms stop earlier."""
INTERVAL_BATCHES = 78
SLOTS = ("slot-0", "slot-1", "slot-2")
STARTS = (0, 6)
AFTER = 4
"""Intervals after the first blending one at which an arm is looked at again."""


@contextlib.contextmanager
def running_statistics(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Batch norms inside normalise with their running statistics, and do not move them."""
    norms = [
        module
        for module in modules
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.training
    ]
    for norm in norms:
        norm.training = False
    try:
        yield
    finally:
        for norm in norms:
            norm.training = True


def straight_through(
    network: GrowingNetwork,
    slot: Slot,
    trace: Trace,
    loss: Callable[[Tensor], Tensor],
    autocast: AbstractContextManager[object],
    seed: int,
) -> ShadowPass:
    """What h + s - s.detach() gives the seed: the host's own gradient at h, pulled back through
    f."""
    h = trace.activations[slot.depth].detach().requires_grad_()
    with (
        set_aside(seed, h.device),
        kept_buffers(network.downstream_modules(slot)),
        autocast,
    ):
        (pull,) = torch.autograd.grad(loss(network.downstream(slot, h, trace.images)), h)
        residual = network.residual(slot, h.detach())
    parameters = list(network.seed(slot).parameters())
    gradients = torch.autograd.grad(residual, parameters, grad_outputs=pull)
    return ShadowPass(gradients, residual.detach())


def use_running_statistics() -> None:
    """Shadow passes in this process normalise as validation does."""
    kasmina.network.shadow.kept_buffers = running_statistics


def use_straight_through() -> None:
    """Seeds in this process learn straight through."""
    # Rebinding the name in the module is the point: mypy holds imported names to be private.
    setattr(kasmina.training.interval, "shadow_pass", straight_through)  # noqa: B010


WAYS = {
    "shadow": None,
    "shadow, running statistics": use_running_statistics,
    "straight-through": use_straight_through,
}


SHADOWS = ("shadow, running statistics", "shadow")


@dataclasses.dataclass(frozen=True)
class Cell:
    """What arms of different seeds have in common."""

    way: str
    slot: str
    start: int
    training: int = 1
    blending: int = 3
    curve: AlphaSchedule = "linear"
    to_the_end: bool = False

    @property
    def name(self) -> str:
        return (
            f"{self.way}; {self.slot} at {self.start}; trains {self.training},"
            f" blends {self.blending}, {self.curve}"
            f"{', to the end' if self.to_the_end else ''}"
        )

    @property
    def first_blend(self) -> int:
        """Interval in which it begins to blend."""
        return self.start + self.training

    def arm(self, seed: int) -> Arm:
        """The cell's arm with that seed. The twin's checkpoint does not know how alpha will rise,
        so such arms begin at the start."""
        config = dataclasses.replace(
            config_of(seed), blend_intervals=self.blending, alpha_schedule=self.curve
        )
        plan = grown_at(self.start, self.slot, training=self.training, blending=self.blending)
        variant = "" if WAYS[self.way] is None else self.way
        return Arm(
            self.name,
            seed,
            config,
            plan,
            variant,
            like_twin=config == config_of(seed),
            until=None if self.to_the_end else self.first_blend + AFTER + 1,
        )


def config_of(seed: int) -> TrainerConfig:
    """An episode of 20 intervals of 9,984 images."""
    return TrainerConfig(
        seeds=EpisodeSeeds.of(seed), horizon=HORIZON, interval_batches=INTERVAL_BATCHES, threads=1
    )


def cells() -> list[Cell]:
    """Every way at every slot and start; then one thing at a time for the way that is kept."""
    ways = [Cell(way, slot, start) for start in STARTS for slot in SLOTS for way in WAYS]
    places = [("slot-2", 0), ("slot-1", 6)]
    changes: list[dict[str, Any]] = [
        {"training": 3},
        {"blending": 1},
        {"blending": 5},
        {"curve": "cosine"},
        {"curve": "sigmoid"},
    ]
    return ways + [Cell("shadow", *place, **change) for place in places for change in changes]


def cells_to_the_end() -> list[Cell]:
    """Both shadow paths at the slots that batch norms follow, grown at the start and later, and one
    that trains for long."""
    places = [("slot-1", 0, 1), ("slot-0", 6, 1), ("slot-1", 6, 1), ("slot-1", 6, 3)]
    return [
        Cell(way, slot, start, training, to_the_end=True)
        for slot, start, training in places
        for way in SHADOWS
    ]


def points_at_the_end(results: Sequence[Result], cell: Cell) -> list[float]:
    """Differences to the twins in points after the last interval."""
    twins = {result.seed: result for result in results if result.cell == "waits"}
    return [
        100.0 * (arm.accuracies[-1] - twins[arm.seed].accuracies[-1])
        for arm in results
        if arm.cell == cell.name
    ]


def table_to_the_end(results: Sequence[Result]) -> str:
    """A row a place: each shadow path's differences to the twins, and theirs to each other."""
    lines = [
        "| slot | at | trains | " + " | ".join(SHADOWS) + " | second minus first |",
        "|---|---|---|---|---|---|",
    ]
    pairs = cells_to_the_end()
    for one, other in zip(pairs[::2], pairs[1::2], strict=True):
        ours, theirs = points_at_the_end(results, one), points_at_the_end(results, other)
        apart = [b - a for a, b in zip(ours, theirs, strict=True)]
        columns = " | ".join(_with_interval(values) for values in (ours, theirs, apart))
        lines.append(f"| {one.slot} | {one.start} | {one.training} | {columns} |")
    return "\n".join(lines)


def _with_interval(values: Sequence[float]) -> str:
    mean, half = interval_of(values)
    each = ", ".join(f"{value:+.2f}" for value in values)
    return f"{mean:+.2f} ± {half:.2f} ({each})"


def points(results: Sequence[Result], cell: Cell) -> tuple[list[float], list[float]]:
    """Differences to the twins in points: after the first blending interval, and `AFTER` later."""
    twins = {result.seed: result for result in results if result.cell == "waits"}
    arms = [result for result in results if result.cell == cell.name]

    def at(interval: int) -> list[float]:
        return [
            100.0 * (arm.accuracies[interval - arm.first] - twins[arm.seed].accuracies[interval])
            for arm in arms
        ]

    return at(cell.first_blend), at(cell.first_blend + AFTER)


def table(results: Sequence[Result]) -> str:
    """One row a cell: the median, the worst and the 95 % interval of the mean."""
    lines = [
        "| way | slot | at | trains | blends | alpha | first blending interval: median (worst)"
        f" | {AFTER} later: mean ± 95 % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cell in cells():
        first, later = points(results, cell)
        mean, half = interval_of(later)
        lines.append(
            f"| {cell.way} | {cell.slot} | {cell.start} | {cell.training} | {cell.blending}"
            f" | {cell.curve} | {statistics.median(first):+.2f} ({min(first):+.2f})"
            f" | {mean:+.2f} ± {half:.2f} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Plays what is missing and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--to-the-end", action="store_true")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="episodes at a time")
    parser.add_argument("--folder", type=Path, default=Path("build/studies/seeding"))
    parser.add_argument("--location", type=Path, default=None, help="where CIFAR-100 is")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()

    data = DatasetSettings("cifar100", options.location, validation_images=5_000)
    study = Study(data, options.folder, {name: way for name, way in WAYS.items() if way})
    chosen = cells_to_the_end() if options.to_the_end else cells()
    last = None if options.to_the_end else max(cell.first_blend for cell in chosen) + AFTER + 1
    twins = [Arm("waits", seed, config_of(seed), until=last) for seed in range(options.seeds)]
    arms = [cell.arm(seed) for seed in range(options.seeds) for cell in chosen]
    results = study.play(twins, arms, options.workers)
    print(table_to_the_end(results) if options.to_the_end else table(results))
    if options.out is not None:
        record = {
            "machine": f"{platform.machine()}, torch {torch.__version__}, one thread an episode",
            "seeds": options.seeds,
            "results": [dataclasses.asdict(result) for result in results],
        }
        write_record(options.out, record)
        if not options.to_the_end:
            draw_differences(
                {cell.name: points(results, cell) for cell in chosen},
                ("after the first blending interval", f"{AFTER} intervals later"),
                options.out.with_suffix(".png"),
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
