"""How a network is trained: the settings of one episode, apart from the data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from kasmina.network.blueprint import check_blueprint
from kasmina.network.host import check_host
from kasmina.training.optimizer import Schedule

BlueprintChoice = Literal["fixed", "round-robin", "random"]
Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class TrainerConfig:
    """Settings of one episode.

    A value that cannot be is refused with ValueError when the object is made.
    """

    seed: int = 0
    """All randomness of the episode comes from it: weights, order and augmentation of images,
    seeds. A twin has the same."""
    horizon: int = 20
    """Decision intervals of the episode."""
    host: str = "weak-cnn"
    """Name of the host."""
    channels: tuple[int, ...] = (16, 32, 64)
    """Width of each of the host's stages. There is a slot after each."""
    batch_size: int = 128
    """Images of an optimiser step; at least 2, for batch norm."""
    interval_batches: int | None = None
    """Optimiser steps of a decision interval. None: one pass over the training images, in whole
    batches."""
    learning_rate: float = 0.1
    """Of the first step, for the host and every seed."""
    schedule: Schedule = "cosine"
    """What the learning rate does over the horizon: "cosine" falls to 0, "constant" stays."""
    momentum: float = 0.9
    """Nesterov's, in [0, 1)."""
    weight_decay: float = 5e-4
    """L2 penalty on every parameter."""
    clip_norm: float | None = None
    """Largest gradient norm of a step. None: any."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes in training, in [0, 1)."""
    blend_intervals: int = 3
    """Decision intervals over which alpha rises to 1."""
    blueprints: tuple[str, ...] = ("conv3x3",)
    """What seeds can be."""
    blueprint_choice: BlueprintChoice = "fixed"
    """"fixed": one blueprint for each slot in order of depth (a single one serves all);
    "round-robin": each germination takes the next; "random": drawn by the seed of the episode."""
    precision: Precision = "fp32"
    """"bf16" computes under autocast."""
    device: str = "cpu"
    """Where to compute, as torch names it."""
    threads: int | None = None
    """Threads of the process that torch may compute with. None: as many as it is set to. Results
    are bit for bit repeatable with the same number only."""
    telemetry_every: int = 8
    """The slots are measured on the last batch of an interval and every so many before it."""
    validation_batch_size: int = 500
    """Images of a validation batch: changes speed, not results worth mentioning."""

    def __post_init__(self) -> None:
        check_host(self.host)
        for blueprint in self.blueprints:
            check_blueprint(blueprint)
        slots = len(self.channels)
        known = get_args(Schedule), get_args(BlueprintChoice), get_args(Precision)
        _require(self.schedule in known[0], "schedule", self.schedule, " or ".join(known[0]))
        _require(
            self.blueprint_choice in known[1],
            "blueprint_choice",
            self.blueprint_choice,
            " or ".join(known[1]),
        )
        _require(self.precision in known[2], "precision", self.precision, " or ".join(known[2]))
        _require(slots > 0 and min(self.channels) > 0, "channels", self.channels, "positive widths")
        if self.blueprint_choice == "fixed":
            _require(
                len(self.blueprints) in (1, slots),
                "blueprints",
                self.blueprints,
                f"one, or one for each of the {slots} slots",
            )
        _require(len(self.blueprints) > 0, "blueprints", self.blueprints, "at least one")
        self._require_ranges()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainerConfig:
        """The settings that `to_dict` gave. Raises ValueError for names that there are not."""
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"unknown trainer settings: {', '.join(sorted(unknown))}")
        lists = {name: tuple(values[name]) for name in ("channels", "blueprints") if name in values}
        return cls(**{**values, **lists})

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON can hold them."""
        return asdict(self)

    def steps_of_interval(self, train_images: int) -> int:
        """Optimiser steps of an interval over that many training images."""
        return self.interval_batches or max(train_images // self.batch_size, 1)

    def _require_ranges(self) -> None:
        floors: dict[str, int] = {
            "horizon": 1,
            "batch_size": 2,
            "blend_intervals": 1,
            "telemetry_every": 1,
            "validation_batch_size": 1,
        }
        for name, floor in floors.items():
            _require(getattr(self, name) >= floor, name, getattr(self, name), f"at least {floor}")
        for name in ("interval_batches", "threads"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, value, "at least 1, or None")
        _require(_positive(self.learning_rate), "learning_rate", self.learning_rate, "above 0")
        _require(0 <= self.momentum < 1, "momentum", self.momentum, "in [0, 1)")
        _require(
            0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "in [0, 1)"
        )
        _require(0 <= self.weight_decay < math.inf, "weight_decay", self.weight_decay, "at least 0")
        _require(
            self.clip_norm is None or _positive(self.clip_norm),
            "clip_norm",
            self.clip_norm,
            "above 0, or None",
        )


def _positive(value: float) -> bool:
    return 0 < value < math.inf


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {value!r}; it must be {allowed}")
