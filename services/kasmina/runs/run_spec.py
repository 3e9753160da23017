"""What a filled-in specification of a run means: the settings that come of it."""

from __future__ import annotations

from pathlib import Path

from chassis.errors import ErrorCode, LeylineError
from kasmina.data.dataset import DatasetSettings
from kasmina.data.errors import DatasetCorrupt, DatasetNotFound
from kasmina.network.slot import AlphaSchedule
from kasmina.runs.seeds import split_seed
from kasmina.training.configuration import BlueprintChoice, EpisodeSeeds, TrainerConfig
from kasmina.training.optimizer import Schedule
from leyline.observation import spec_by_name
from leyline.v1 import trainer_pb2 as contract
from leyline.v1.episode_pb2 import EpisodeOrigin
from leyline.v1.trainer_pb2 import (
    ALPHA_SCHEDULE_COSINE,
    ALPHA_SCHEDULE_LINEAR,
    ALPHA_SCHEDULE_SIGMOID,
    BLUEPRINT_CHOICE_FIXED,
    BLUEPRINT_CHOICE_RANDOM,
    BLUEPRINT_CHOICE_ROUND_ROBIN,
    LEARNING_RATE_SCHEDULE_CONSTANT,
    LEARNING_RATE_SCHEDULE_CONSTANT_THEN_COSINE,
    LEARNING_RATE_SCHEDULE_COSINE,
    PRECISION_BF16,
    Compute,
    RunSpec,
)

_SCHEDULES: dict[contract.LearningRateSchedule.ValueType, Schedule] = {
    LEARNING_RATE_SCHEDULE_CONSTANT: "constant",
    LEARNING_RATE_SCHEDULE_COSINE: "cosine",
    LEARNING_RATE_SCHEDULE_CONSTANT_THEN_COSINE: "constant-then-cosine",
}
_ALPHA_SCHEDULES: dict[contract.AlphaSchedule.ValueType, AlphaSchedule] = {
    ALPHA_SCHEDULE_LINEAR: "linear",
    ALPHA_SCHEDULE_COSINE: "cosine",
    ALPHA_SCHEDULE_SIGMOID: "sigmoid",
}
_CHOICES: dict[contract.BlueprintChoice.ValueType, BlueprintChoice] = {
    BLUEPRINT_CHOICE_FIXED: "fixed",
    BLUEPRINT_CHOICE_ROUND_ROBIN: "round-robin",
    BLUEPRINT_CHOICE_RANDOM: "random",
}


def trainer_config(spec: RunSpec, origin: EpisodeOrigin, compute: Compute) -> TrainerConfig:
    """Settings of one episode: those of the specification, but where the episode's situation says
    otherwise. Raises ValueError where a value cannot be.
    """
    training, growth, situation = spec.training, spec.growth, origin.situation
    varied = origin.HasField("situation")
    return TrainerConfig(
        seeds=EpisodeSeeds(
            initialization=origin.seeds.initialization,
            order=origin.seeds.order,
            augmentation=origin.seeds.augmentation,
            blueprint=origin.seeds.blueprint,
        ),
        horizon=training.horizon,
        host=spec.host.name,
        channels=tuple(situation.channels if varied else spec.host.channels),
        host_options=dict(spec.host.options),
        slots=tuple(spec.host.slots),
        planted=dict(growth.planted),
        batch_size=training.batch_size,
        interval_batches=training.interval_batches or None,
        interval_epochs=training.interval_epochs or 1,
        learning_rate=situation.learning_rate if varied else training.learning_rate,
        schedule=_SCHEDULES[training.schedule],
        constant_share=training.constant_share,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        clip_norm=training.clip_norm if training.HasField("clip_norm") else None,
        label_smoothing=training.label_smoothing,
        blend_intervals=growth.blend_intervals,
        alpha_schedule=_ALPHA_SCHEDULES[growth.alpha_schedule],
        blueprint_choice=_CHOICES[growth.choice],
        blueprints=dict(growth.blueprints),
        candidates=tuple(growth.candidates),
        duds=tuple(situation.duds),
        precision="bf16" if compute.precision == PRECISION_BF16 else "fp32",
        compile=compute.compiled,
        device=compute.device,
        threads=compute.threads,
    )


def dataset_settings(spec: RunSpec, data: Path | None, cache: Path | None) -> DatasetSettings:
    """Which images a specification is about; 0 stands for the data set's own numbers."""
    dataset = spec.dataset
    return DatasetSettings(
        name=dataset.name,
        location=data,
        cache=cache,
        train_images=dataset.training_images or None,
        validation_images=dataset.validation_images or None,
        split_seed=split_seed(spec),
        image_size=dataset.image_size or None,
    )


def fingerprint_of(spec: RunSpec) -> str:
    """Fingerprint of the observation spec that the run's snapshots are filled for."""
    return spec_by_name(spec.observation_spec).fingerprint


def not_found(error: DatasetNotFound) -> LeylineError:
    """The error as callers get it: where it was looked for, and what to do."""
    return LeylineError(
        ErrorCode.DATASET_NOT_FOUND,
        dataset=error.name,
        looked_in=", ".join(map(str, error.looked_in)),
        variable="LEYLINE_KASMINA_DATA or LEYLINE_DATA",
    )


def corrupt(error: DatasetCorrupt, dataset: str) -> LeylineError:
    """The error as callers get it: which file, and what is wrong with it."""
    return LeylineError(
        ErrorCode.DATASET_CORRUPT, dataset=dataset, file=str(error.path), problem=error.why
    )
