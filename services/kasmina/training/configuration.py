"""How a network is trained: the settings of one episode, apart from the data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from kasmina.network.blueprint import check_blueprint
from kasmina.network.hosts import check_host
from kasmina.network.slot import AlphaSchedule
from kasmina.randomness import derive_seed
from kasmina.training.optimizer import Schedule

BlueprintChoice = Literal["fixed", "round-robin", "random"]
Precision = Literal["fp32", "bf16"]

DEFAULT_BLUEPRINT = "conv3x3"
"""What grows in a slot for which nothing else is said."""


@dataclass(frozen=True)
class EpisodeSeeds:
    """Seeds of what is random in an episode, apart from each other, in [0, 2^63).

    Episodes with the same seed in one respect agree in it, whatever differs otherwise.
    """

    initialization: int
    """Of the host's weights."""
    order: int
    """Of the order of the images, and of what the network's own layers draw (dropout, say)."""
    augmentation: int
    """Of the augmentation of the images."""
    blueprint: int
    """Of the choice of blueprints and of the weights of seeds."""

    @classmethod
    def of(cls, root: int) -> EpisodeSeeds:
        """All of them derived from one."""
        return cls(**{part.name: derive_seed(root, part.name) for part in fields(cls)})


@dataclass(frozen=True)
class TrainerConfig:
    """Settings of one episode.

    A value that cannot be is refused with ValueError when the object is made; its message begins
    with the setting's name. Whether the slots that are named exist is found when the host is built.
    """

    seeds: EpisodeSeeds = field(default_factory=lambda: EpisodeSeeds.of(0))
    """All randomness of the episode comes from them. A twin has the same."""
    horizon: int = 20
    """Decision intervals of the episode."""
    host: str = "weak-cnn"
    """Name of the host."""
    channels: tuple[int, ...] = ()
    """Width of each of the host's stages; empty: the host's own."""
    host_options: Mapping[str, str] = field(default_factory=dict)
    """What else the host is told."""
    slots: tuple[str, ...] | None = None
    """Slots that the episode uses, of those that the host has. None: all."""
    planted: Mapping[str, str] = field(default_factory=dict)
    """Seeds that are present, fossilised, from step 0 on: blueprint by slot id."""
    batch_size: int = 128
    """Images of an optimiser step; at least 2, for batch norm."""
    interval_batches: int | None = None
    """Optimiser steps of a decision interval. None: `interval_epochs` passes over the training
    images, in whole batches."""
    interval_epochs: int = 1
    """Passes over the training images in a decision interval, unless `interval_batches` says
    otherwise."""
    learning_rate: float = 0.1
    """Highest of the schedule, for the host and every seed."""
    schedule: Schedule = "cosine"
    """What the learning rate does over the horizon: "cosine" falls to 0, "constant" stays,
    "constant-then-cosine" stays for `constant_share` of the steps and then falls to 0."""
    constant_share: float = 0.5
    """See `schedule`; in [0, 1]."""
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
    alpha_schedule: AlphaSchedule = "linear"
    """How alpha rises."""
    blueprint_choice: BlueprintChoice = "fixed"
    """"fixed": `blueprints` has one for each slot; "round-robin": each germination takes the next
    of `candidates`; "random": each draws one of them, by the episode's blueprint seed."""
    blueprints: Mapping[str, str] = field(default_factory=dict)
    """Blueprint by slot id where the choice is fixed; conv3x3 in a slot that is not named."""
    candidates: tuple[str, ...] = ()
    """Blueprints to choose from where the choice is not fixed."""
    duds: tuple[str, ...] = ()
    """Blueprints whose seeds see nothing, and so learn nothing worth having."""
    precision: Precision = "fp32"
    """"bf16" computes under autocast."""
    compile: bool = False
    """Whether torch.compile compiles the host."""
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
        for blueprint in (
            *self.blueprints.values(),
            *self.planted.values(),
            *self.candidates,
            *self.duds,
        ):
            check_blueprint(blueprint)
        self._require_choices()
        self._require_ranges()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainerConfig:
        """The settings that `to_dict` gave. Raises ValueError for names that there are not."""
        unknown = set(values) - {setting.name for setting in fields(cls)}
        if unknown:
            raise ValueError(f"unknown trainer settings: {', '.join(sorted(unknown))}")
        converted = dict(values)
        for name in ("channels", "slots", "candidates", "duds"):
            if converted.get(name) is not None:
                converted[name] = tuple(converted[name])
        if "seeds" in converted:
            converted["seeds"] = EpisodeSeeds(**converted["seeds"])
        return cls(**converted)

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON can hold them."""
        return asdict(self)

    def steps_of_interval(self, train_images: int) -> int:
        """Optimiser steps of an interval over that many training images."""
        if self.interval_batches is not None:
            return self.interval_batches
        return max(self.interval_epochs * train_images // self.batch_size, 1)

    def _require_choices(self) -> None:
        for name, kind in {
            "schedule": Schedule,
            "blueprint_choice": BlueprintChoice,
            "alpha_schedule": AlphaSchedule,
            "precision": Precision,
        }.items():
            known = get_args(kind)
            value = getattr(self, name)
            _require(value in known, name, value, " or ".join(known))
        if self.blueprint_choice != "fixed":
            _require(len(self.candidates) > 0, "candidates", self.candidates, "at least one")

    def _require_ranges(self) -> None:
        floors: dict[str, int] = {
            "horizon": 1,
            "batch_size": 2,
            "interval_epochs": 1,
            "blend_intervals": 1,
            "telemetry_every": 1,
            "validation_batch_size": 1,
        }
        for name, floor in floors.items():
            _require(getattr(self, name) >= floor, name, getattr(self, name), f"at least {floor}")
        for name in ("interval_batches", "threads"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, value, "at least 1, or None")
        positive = all(width > 0 for width in self.channels)
        _require(positive, "channels", self.channels, "positive widths, or none")
        _require(_positive(self.learning_rate), "learning_rate", self.learning_rate, "above 0")
        _require(0 <= self.constant_share <= 1, "constant_share", self.constant_share, "in [0, 1]")
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
