"""Situations: what an episode is like, drawn from the range that its run names.

A situation is a function of the range, the specification and the episode's situation seed. Each
quantity is drawn from a stream of its own, so that a change of one distribution leaves what the
others draw alone.
"""

from __future__ import annotations

import functools
import math
import tomllib
from importlib import resources

from google.protobuf import json_format

from kasmina.randomness import derive_seed
from leyline.v1.episode_pb2 import DoubleRange, Situation, SituationRange
from leyline.v1.trainer_pb2 import RunSpec

_FOLDER = "situations"
_UNIT = 2.0**-53  # what is left of 63 bits after a shift by ten are the 53 that a double holds


@functools.cache
def range_names() -> tuple[str, ...]:
    """Names of the ranges that ship, sorted."""
    folder = resources.files(__package__) / _FOLDER
    return tuple(sorted(file.name.removesuffix(".toml") for file in folder.iterdir()))


def shipped_range(name: str) -> SituationRange:
    """The range that ships under that name, one of `range_names`."""
    file = resources.files(__package__) / _FOLDER / f"{name}.toml"
    values = tomllib.loads(file.read_text(encoding="utf-8"))
    return json_format.ParseDict({"name": name, **values}, SituationRange())


def is_only_named(situations: SituationRange) -> bool:
    """Whether nothing is given but the name of a range."""
    return [field.name for field, _ in situations.ListFields()] == ["name"]


def draw(situations: SituationRange, spec: RunSpec, seed: int) -> Situation:
    """What the episode with that situation seed is like, under a settled specification.

    What the range leaves alone is as the specification says.
    """
    images = list(situations.training_images) or [spec.dataset.training_images]
    noise = list(situations.label_noise) or [0.0]
    learning_rate = spec.training.learning_rate
    if situations.HasField("learning_rate"):
        learning_rate = _between(situations.learning_rate, _uniform(seed, "learning_rate"))
    return Situation(
        range=situations.name,
        held_out=situations.held_out,
        channels=_channels(situations, tuple(spec.host.channels), seed),
        training_images=images[derive_seed(seed, "training_images") % len(images)],
        label_noise=noise[derive_seed(seed, "label_noise") % len(noise)],
        learning_rate=learning_rate,
        duds=_duds(situations, spec, seed),
    )


def blueprints_of(spec: RunSpec) -> tuple[str, ...]:
    """Blueprints that can be in the network of a settled specification, sorted."""
    growth = spec.growth
    names = {*growth.candidates, *growth.blueprints.values(), *growth.planted.values()}
    return tuple(sorted(names))


def _channels(situations: SituationRange, own: tuple[int, ...], seed: int) -> tuple[int, ...]:
    if _uniform(seed, "bottleneck") >= situations.bottleneck_probability:
        return own
    depth = derive_seed(seed, "bottleneck_depth") % len(own)
    factor = _between(situations.bottleneck_factor, _uniform(seed, "bottleneck_factor"))
    return (*own[:depth], max(round(own[depth] * factor), 1), *own[depth + 1 :])


def _duds(situations: SituationRange, spec: RunSpec, seed: int) -> tuple[str, ...]:
    return tuple(
        name
        for name in blueprints_of(spec)
        if _uniform(seed, "dud", name) < situations.dud_probability
    )


def _between(ends: DoubleRange, place: float) -> float:
    """Log-uniform for a `place` that is uniform in [0, 1)."""
    value = ends.low * math.exp(place * math.log(ends.high / ends.low))
    return min(max(value, ends.low), ends.high)


def _uniform(seed: int, *path: str) -> float:
    return (derive_seed(seed, *path) >> 10) * _UNIT
