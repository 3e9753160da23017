"""What is wrong with the situations of a specification."""

from __future__ import annotations

from collections.abc import Iterator

from kasmina.runs.complaint import Complaint, invalid
from kasmina.runs.host_sites import can_narrow_each_stage
from kasmina.runs.situation import is_only_named, range_names, shipped_range
from leyline.v1.trainer_pb2 import RunSpec

_FIELD = "spec.situations"


def situation_complaints(spec: RunSpec) -> Iterator[Complaint]:
    """Of a filled-in specification."""
    if not spec.HasField("situations"):
        return
    situations = spec.situations
    shipped = situations.name in range_names()
    if not shipped and is_only_named(situations):
        known = ", ".join(range_names())
        yield invalid(
            f"{_FIELD}.name",
            f"no range of that name ships (there are {known}); one of your own needs distributions",
        )
    if shipped and situations != shipped_range(situations.name):
        yield invalid(
            f"{_FIELD}.name",
            "a range of that name ships with other distributions: give the name alone, or another",
        )
    yield from _bottleneck(spec)
    most = max(situations.training_images, default=0)
    if 0 < spec.dataset.training_images < most:
        yield invalid(
            f"{_FIELD}.training_images",
            f"must not exceed dataset.training_images, {spec.dataset.training_images}",
        )


def _bottleneck(spec: RunSpec) -> Iterator[Complaint]:
    situations = spec.situations
    if situations.bottleneck_probability == 0.0:
        return
    if not situations.HasField("bottleneck_factor"):
        yield invalid(
            f"{_FIELD}.bottleneck_factor", "is required where a bottleneck has a probability"
        )
        return
    factor = situations.bottleneck_factor.low
    if not can_narrow_each_stage(spec.host, spec.dataset.image_size, factor):
        yield invalid(
            f"{_FIELD}.bottleneck_probability",
            f"must be 0: the stages of {spec.host.name} have no widths of their own",
        )
