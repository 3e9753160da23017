"""What is wrong with a filled-in specification, found before the run is queued where it can be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from chassis.errors import ErrorCode
from kasmina.data.dataset import dataset_names, locate
from kasmina.data.errors import DatasetCorrupt, DatasetNotFound, UnknownDataset
from kasmina.network.blueprint import UnknownBlueprint, check_blueprint
from kasmina.network.hosts import UnknownHost, host_names
from kasmina.runs import simulated_host
from kasmina.runs.complaint import Complaint, invalid, refuse, unknown
from kasmina.runs.host_sites import sites_of
from kasmina.runs.run_spec import corrupt, dataset_settings, not_found, trainer_config
from kasmina.runs.situation_checks import situation_complaints
from kasmina.settings import KasminaSettings
from leyline.indices import LAST_INDEX, episode_indices
from leyline.observation import spec_names
from leyline.v1.decision_pb2 import SELECTION_MODE_GREEDY
from leyline.v1.episode_pb2 import EpisodeOrigin
from leyline.v1.trainer_pb2 import (
    ALPHA_SCHEDULE_LINEAR,
    BLUEPRINT_CHOICE_FIXED,
    LEARNING_RATE_SCHEDULE_CONSTANT_THEN_COSINE,
    Compute,
    RunSpec,
    TrainingSpec,
)

_PARQUET_MAGIC = b"PAR1"
_OF_THE_HOST = {"channels": "spec.host.channels", "host_options": "spec.host.options"}
_OF_GROWTH = frozenset(("planted", "candidates", "blueprints", "blend_intervals", "alpha_schedule"))


def check(spec: RunSpec, settings: KasminaSettings) -> None:
    """Refuses a filled-in specification that cannot be run.

    Raises:
        LeylineError: with all fields that are to blame, as far as one does not hide another; or
            the data set is not there.
    """
    refuse([*_host(spec), *_names(spec, settings), *_episodes(spec)])
    refuse([*_slots(spec), *_growth(spec), *_plan(spec)])
    if simulated_host.is_simulated(spec):
        refuse([*_simulated(spec)])
    else:
        refuse([*_training(spec), *situation_complaints(spec)])
        _check_data(spec, settings)


def _host(spec: RunSpec) -> Iterator[Complaint]:
    simulated = simulated_host.is_simulated(spec)
    try:
        if simulated:
            simulated_host.family_of(spec.host)
        else:
            sites_of(spec.host, spec.dataset.image_size)
    except UnknownHost:
        known = sorted({*host_names(), simulated_host.NAME})
        yield unknown(ErrorCode.UNKNOWN_HOST, "host", "spec.host.name", spec.host.name, known)
    except ValueError as error:
        field = _OF_THE_HOST.get(str(error).split(" ", 1)[0], "spec.host")
        yield invalid(field, str(error))
    if simulated and spec.dataset.ByteSize():
        yield invalid("spec.dataset", f"must be empty: the {simulated_host.NAME} needs no data")
    if not simulated and not spec.dataset.name:
        names = ", ".join(dataset_names())
        yield invalid("spec.dataset.name", f"is required; known: {names}, or a folder of images")


def _names(spec: RunSpec, settings: KasminaSettings) -> Iterator[Complaint]:
    endpoint = spec.policy.endpoint
    if endpoint and endpoint not in settings.policies:
        known = sorted(settings.policies)
        yield unknown(ErrorCode.UNKNOWN_POLICY, "policy", "spec.policy.endpoint", endpoint, known)
    if spec.observation_spec not in spec_names():
        described = f"there is {', '.join(spec_names())}, no {spec.observation_spec!r}"
        yield invalid("spec.observation_spec", described)
    growth = spec.growth
    named = [(f"spec.growth.candidates[{n}]", name) for n, name in enumerate(growth.candidates)]
    for field in ("blueprints", "planted"):
        given = sorted(getattr(growth, field).items())
        named += [(f'spec.growth.{field}["{slot_id}"]', name) for slot_id, name in given]
    for field, name in named:
        try:
            check_blueprint(name)
        except UnknownBlueprint as error:
            yield unknown(ErrorCode.UNKNOWN_BLUEPRINT, "blueprint", field, name, error.known)
        except ValueError as error:  # a plug-in that is broken
            yield invalid(field, str(error))


def _episodes(spec: RunSpec) -> Iterator[Complaint]:
    last = episode_indices(spec)[-1]
    if last > LAST_INDEX:
        described = f"must not lead beyond index {LAST_INDEX}: the last one would be {last}"
        yield invalid("spec.episodes", described)


def _slots(spec: RunSpec) -> Iterator[Complaint]:
    existing = _existing_slots(spec)
    used = tuple(spec.host.slots)
    for number, slot_id in enumerate(used):
        if slot_id not in existing:
            yield _unknown_slot(f"spec.host.slots[{number}]", slot_id, existing)
    named = [
        (f'spec.growth.{field}["{slot_id}"]', slot_id)
        for field in ("blueprints", "planted")
        for slot_id in sorted(getattr(spec.growth, field))
    ]
    named += [
        (f"spec.policy.plan.actions[{number}].slot_id", action.slot_id)
        for number, action in enumerate(spec.policy.plan.actions)
        if action.HasField("slot_id")
    ]
    for field, slot_id in named:
        if slot_id not in used:
            yield _unknown_slot(field, slot_id, used)


def _growth(spec: RunSpec) -> Iterator[Complaint]:
    growth = spec.growth
    fixed = growth.choice == BLUEPRINT_CHOICE_FIXED
    if fixed and growth.candidates:
        yield invalid(
            "spec.growth.candidates", "must be empty where the choice is fixed: set blueprints"
        )
    if not fixed and growth.blueprints:
        yield invalid(
            "spec.growth.blueprints", "must be empty unless the choice is fixed: set candidates"
        )
    for slot_id in sorted(growth.blueprints):
        if slot_id in growth.planted:
            field = f'spec.growth.blueprints["{slot_id}"]'
            yield invalid(field, "must be empty: the slot has a seed from step 0 on, for good")


def _plan(spec: RunSpec) -> Iterator[Complaint]:
    policy = spec.policy
    if not policy.HasField("plan"):
        return
    for field, given in (
        ("endpoint", bool(policy.endpoint)),
        ("mode", policy.mode != SELECTION_MODE_GREEDY),
        ("decision_timeout", policy.HasField("decision_timeout")),
        ("deterministic", policy.deterministic),
        ("temperature", policy.HasField("temperature")),
    ):
        if given:
            yield invalid(f"spec.policy.{field}", "must be empty: a plan asks no policy")
    for number, action in enumerate(policy.plan.actions):
        if action.step >= spec.training.horizon:
            field = f"spec.policy.plan.actions[{number}].step"
            yield invalid(field, f"must be less than the horizon, {spec.training.horizon}")


def _training(spec: RunSpec) -> Iterator[Complaint]:
    training = spec.training
    bends = training.schedule == LEARNING_RATE_SCHEDULE_CONSTANT_THEN_COSINE
    if training.HasField("constant_share") and not bends:
        yield invalid(
            "spec.training.constant_share", "is for the schedule CONSTANT_THEN_COSINE alone"
        )
    try:
        trainer_config(spec, EpisodeOrigin(), Compute(device="cpu", threads=1))
    except ValueError as error:
        name = str(error).split(" ", 1)[0]
        field = "spec"
        if name in TrainingSpec.DESCRIPTOR.fields_by_name:
            field = f"spec.training.{name}"
        elif name in _OF_GROWTH:
            field = f"spec.growth.{name}"
        yield invalid(field, str(error))


def _simulated(spec: RunSpec) -> Iterator[Complaint]:
    name = simulated_host.NAME
    for field, _ in spec.training.ListFields():
        if field.name != "horizon":
            described = f"must be empty: the {name}'s family says how it learns"
            yield invalid(f"spec.training.{field.name}", described)
    if spec.host.channels:
        yield invalid("spec.host.channels", f"must be empty: the {name} has none")
    if spec.HasField("situations"):
        described = f"must be empty: the {name}'s family has its own (host.options family)"
        yield invalid("spec.situations", described)
    if set(spec.host.slots) != set(simulated_host.slot_ids(spec)):
        described = f"must be all that the {name} has; host.options slots says how many"
        yield invalid("spec.host.slots", described)
    if spec.growth.planted:
        yield invalid("spec.growth.planted", f"must be empty: the {name} begins without seeds")
    if spec.growth.alpha_schedule != ALPHA_SCHEDULE_LINEAR:
        yield invalid("spec.growth.alpha_schedule", f"must be linear on the {name}")
    try:
        simulated_host.parameters_of(spec)
    except ValueError as error:
        yield invalid("spec.growth", str(error))


def _existing_slots(spec: RunSpec) -> tuple[str, ...]:
    if simulated_host.is_simulated(spec):
        return simulated_host.slot_ids(spec)
    return tuple(site.slot_id for site in sites_of(spec.host, spec.dataset.image_size))


def _unknown_slot(field: str, slot_id: str, known: Sequence[str]) -> Complaint:
    return unknown(ErrorCode.UNKNOWN_SLOT, "slot_id", field, slot_id, known)


def _check_data(spec: RunSpec, settings: KasminaSettings) -> None:
    try:
        folder = locate(dataset_settings(spec, settings.data, settings.cache))
        if folder is not None:
            _check_parquet(folder)
    except UnknownDataset as error:
        complaint = unknown(
            ErrorCode.UNKNOWN_DATASET,
            "dataset",
            "spec.dataset.name",
            spec.dataset.name,
            error.known,
        )
        raise complaint.error() from error
    except DatasetNotFound as error:
        raise not_found(error) from error
    except DatasetCorrupt as error:
        raise corrupt(error, spec.dataset.name) from error


def _check_parquet(folder: Path) -> None:
    """Finds files that are cut short, without reading them; what is wrong inside is found when they
    are decoded.
    """
    for path in sorted(folder.glob("*.parquet")):
        with path.open("rb") as file:
            head = file.read(len(_PARQUET_MAGIC))
            size = file.seek(0, 2)
            file.seek(max(size - len(_PARQUET_MAGIC), 0))
            tail = file.read()
        if (head, tail) != (_PARQUET_MAGIC, _PARQUET_MAGIC):
            raise DatasetCorrupt(path, "it does not begin and end as a parquet file does")
