"""What a run's specification means: its defaults, what is wrong with it, and the settings that come
of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chassis.errors import ErrorCode, LeylineError, Violation
from kasmina.data.dataset import Dataset, DatasetSettings, dataset_names, locate
from kasmina.data.errors import DatasetCorrupt, DatasetNotFound
from kasmina.network.blueprint import blueprint_names
from kasmina.network.host import host_names
from kasmina.settings import DEFAULT_POLICY, KasminaSettings
from kasmina.training.configuration import TrainerConfig
from leyline.identity import derived_seed
from leyline.observation import spec_by_name, spec_names
from leyline.v1.decision_pb2 import SELECTION_MODE_SAMPLED, SELECTION_MODE_UNSPECIFIED
from leyline.v1.trainer_pb2 import (
    LEARNING_RATE_SCHEDULE_CONSTANT,
    LEARNING_RATE_SCHEDULE_COSINE,
    LEARNING_RATE_SCHEDULE_UNSPECIFIED,
    PRECISION_BF16,
    PRECISION_FP32,
    PRECISION_UNSPECIFIED,
    RunSpec,
)

_DEFAULTS = TrainerConfig()
_DEFAULT_BLUEPRINT = _DEFAULTS.blueprints[0]
_PARQUET_MAGIC = b"PAR1"


def slot_ids(spec: RunSpec) -> tuple[str, ...]:
    """Names of the slots that the host of a filled-in specification has, from the input on."""
    return tuple(f"slot-{depth}" for depth in range(len(spec.host.channels)))


def fill_in(requested: RunSpec, settings: KasminaSettings) -> RunSpec:
    """The specification with every default that is known before the data is there."""
    spec = RunSpec()
    spec.CopyFrom(requested)
    spec.episodes = spec.episodes or 1
    spec.observation_spec = spec.observation_spec or "seed"
    spec.host.name = spec.host.name or _DEFAULTS.host
    if not spec.host.channels:
        spec.host.channels.extend(_DEFAULTS.channels)
    if not spec.host.slots:
        spec.host.slots.extend(slot_ids(spec))
    _fill_in_training(spec)
    spec.growth.blend_intervals = spec.growth.blend_intervals or _DEFAULTS.blend_intervals
    for slot_id in spec.host.slots:
        if slot_id not in spec.growth.blueprints:
            spec.growth.blueprints[slot_id] = _DEFAULT_BLUEPRINT
    _fill_in_policy(spec, settings)
    return spec


def fill_in_sizes(spec: RunSpec, dataset: Dataset) -> None:
    """Fills in what depends on the data."""
    spec.dataset.training_images = len(dataset.train)
    spec.dataset.validation_images = len(dataset.validation)
    if spec.training.interval_batches == 0:
        config = TrainerConfig(batch_size=spec.training.batch_size)
        spec.training.interval_batches = config.steps_of_interval(len(dataset.train))


def check(spec: RunSpec, settings: KasminaSettings) -> None:
    """Refuses a filled-in specification that cannot be run.

    Raises:
        LeylineError: the first reason, with all fields that are to blame; or the data set is not
        there.
    """
    complaints = [*_unknown_names(spec, settings), *_unknown_slots(spec)]
    if complaints:
        raise LeylineError(
            complaints[0].code,
            violations=[complaint.violation for complaint in complaints],
            **complaints[0].facts,
        )
    try:
        trainer_config(spec, episode_index=0, threads=settings.threads)
    except ValueError as error:
        name = str(error).split(" ", 1)[0]
        field = f"spec.training.{name}" if hasattr(spec.training, name) else "spec"
        violation = Violation(field, str(error))
        raise LeylineError(ErrorCode.INVALID_ARGUMENT, violations=[violation]) from error
    _check_data(spec, settings)


def trainer_config(
    spec: RunSpec, episode_index: int, threads: int, device: str = "cpu"
) -> TrainerConfig:
    """Settings of one episode of a filled-in specification. Raises ValueError where a value cannot
    be.
    """
    training = spec.training
    bf16 = training.precision == PRECISION_BF16
    constant = training.schedule == LEARNING_RATE_SCHEDULE_CONSTANT
    return TrainerConfig(
        seed=derived_seed("episode", spec.seed, episode_index),
        horizon=training.horizon,
        host=spec.host.name,
        channels=tuple(spec.host.channels),
        batch_size=training.batch_size,
        interval_batches=training.interval_batches or None,
        learning_rate=training.learning_rate,
        schedule="constant" if constant else "cosine",
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        clip_norm=training.clip_norm if training.HasField("clip_norm") else None,
        label_smoothing=training.label_smoothing,
        blend_intervals=spec.growth.blend_intervals,
        blueprints=tuple(
            spec.growth.blueprints.get(slot_id, _DEFAULT_BLUEPRINT) for slot_id in slot_ids(spec)
        ),
        blueprint_choice="fixed",
        precision="bf16" if bf16 else "fp32",
        device=device,
        threads=threads,
    )


def dataset_settings(spec: RunSpec, data: Path | None, cache: Path | None) -> DatasetSettings:
    """Which images a specification is about; 0 stands for the data set's own numbers."""
    return DatasetSettings(
        name=spec.dataset.name,
        location=data,
        cache=cache,
        train_images=spec.dataset.training_images or None,
        validation_images=spec.dataset.validation_images or None,
        split_seed=derived_seed("images", spec.seed) >> 1,
    )


@dataclass(frozen=True)
class _Complaint:
    code: ErrorCode
    facts: Mapping[str, Any]
    violation: Violation


def _unknown_names(spec: RunSpec, settings: KasminaSettings) -> list[_Complaint]:
    named = [
        (ErrorCode.UNKNOWN_HOST, "host", "spec.host.name", spec.host.name, host_names()),
        (
            ErrorCode.UNKNOWN_DATASET,
            "dataset",
            "spec.dataset.name",
            spec.dataset.name,
            dataset_names(),
        ),
        (
            ErrorCode.UNKNOWN_POLICY,
            "policy",
            "spec.policy.endpoint",
            spec.policy.endpoint,
            sorted(settings.policies),
        ),
    ]
    named += [
        (
            ErrorCode.UNKNOWN_BLUEPRINT,
            "blueprint",
            f'spec.growth.blueprints["{slot_id}"]',
            blueprint,
            blueprint_names(),
        )
        for slot_id, blueprint in sorted(spec.growth.blueprints.items())
    ]
    complaints = [
        _complaint(code, kind, field, name, known)
        for code, kind, field, name, known in named
        if name not in known
    ]
    if spec.observation_spec not in spec_names():
        description = f"there is {_listed(spec_names())}, no {spec.observation_spec!r}"
        violation = Violation("spec.observation_spec", description)
        complaints.append(_Complaint(ErrorCode.INVALID_ARGUMENT, {}, violation))
    return complaints


def _unknown_slots(spec: RunSpec) -> list[_Complaint]:
    known = slot_ids(spec)
    named = [(f"spec.host.slots[{n}]", slot_id) for n, slot_id in enumerate(spec.host.slots)]
    named += [
        (f'spec.growth.blueprints["{slot}"]', slot) for slot in sorted(spec.growth.blueprints)
    ]
    return [
        _complaint(ErrorCode.UNKNOWN_SLOT, "slot_id", field, slot_id, known)
        for field, slot_id in named
        if slot_id not in known
    ]


def _complaint(
    code: ErrorCode, kind: str, field: str, name: str, known: Sequence[str]
) -> _Complaint:
    facts = {kind: name, "known": _listed(known)}
    return _Complaint(code, facts, Violation(field, code.spec.message.format_map(facts)))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


def _fill_in_training(spec: RunSpec) -> None:
    training = spec.training
    training.batch_size = training.batch_size or _DEFAULTS.batch_size
    training.horizon = training.horizon or _DEFAULTS.horizon
    for name in ("learning_rate", "momentum", "weight_decay", "label_smoothing"):
        if not training.HasField(name):
            setattr(training, name, getattr(_DEFAULTS, name))
    if training.schedule == LEARNING_RATE_SCHEDULE_UNSPECIFIED:
        training.schedule = LEARNING_RATE_SCHEDULE_COSINE
    if training.precision == PRECISION_UNSPECIFIED:
        training.precision = PRECISION_FP32


def _fill_in_policy(spec: RunSpec, settings: KasminaSettings) -> None:
    policy = spec.policy
    policy.endpoint = policy.endpoint or DEFAULT_POLICY
    if policy.mode == SELECTION_MODE_UNSPECIFIED:
        policy.mode = SELECTION_MODE_SAMPLED
    if not policy.HasField("decision_timeout"):
        policy.decision_timeout.FromNanoseconds(int(settings.decision_timeout_s * 1e9))


def _check_data(spec: RunSpec, settings: KasminaSettings) -> None:
    try:
        folder = locate(dataset_settings(spec, settings.data, settings.cache))
        if folder is not None:
            _check_parquet(folder)
    except DatasetNotFound as error:
        raise not_found(error) from error
    except DatasetCorrupt as error:
        raise corrupt(error, spec.dataset.name) from error


def not_found(error: DatasetNotFound) -> LeylineError:
    """The error as callers get it: where it was looked for, and what to do."""
    return LeylineError(
        ErrorCode.DATASET_NOT_FOUND,
        dataset=error.name,
        looked_in=_listed([str(path) for path in error.looked_in]),
        variable="LEYLINE_KASMINA_DATA or LEYLINE_DATA",
    )


def corrupt(error: DatasetCorrupt, dataset: str) -> LeylineError:
    """The error as callers get it: which file, and what is wrong with it."""
    return LeylineError(
        ErrorCode.DATASET_CORRUPT, dataset=dataset, file=str(error.path), problem=error.why
    )


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


def fingerprint_of(spec: RunSpec) -> str:
    """Fingerprint of the observation spec that the run's snapshots are filled for."""
    return spec_by_name(spec.observation_spec).fingerprint
