"""What a run's specification means, and how it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from chassis.errors import ErrorCode, LeylineError
from kasmina.runs import run_spec
from kasmina.settings import KasminaSettings
from kasmina.training.configuration import TrainerConfig
from leyline.v1.decision_pb2 import SELECTION_MODE_SAMPLED
from leyline.v1.trainer_pb2 import (
    LEARNING_RATE_SCHEDULE_CONSTANT,
    PRECISION_BF16,
    DatasetSpec,
    GrowthSpec,
    HostSpec,
    PolicySpec,
    RunSpec,
    TrainingSpec,
)


@pytest.fixture
def settings(tmp_path: Path) -> KasminaSettings:
    """Settings of a service with nothing but digits."""
    return KasminaSettings(state_dir=tmp_path, data=tmp_path / "data", decision_timeout_s=3.0)


def digits(**parts: object) -> RunSpec:
    """A specification on digits."""
    return RunSpec(dataset=DatasetSpec(name="digits"), **parts)  # type: ignore[arg-type]


def refusal(spec: RunSpec, settings: KasminaSettings) -> LeylineError:
    """What a specification is refused with."""
    with pytest.raises(LeylineError) as error:
        run_spec.check(run_spec.fill_in(spec, settings), settings)
    return error.value


def test_a_specification_that_names_only_its_data_is_filled_in(settings: KasminaSettings) -> None:
    requested = digits()
    spec = run_spec.fill_in(requested, settings)
    assert requested == digits()
    defaults = TrainerConfig()
    assert (spec.host.name, tuple(spec.host.channels)) == (defaults.host, defaults.channels)
    assert list(spec.host.slots) == ["slot-0", "slot-1", "slot-2"]
    assert dict(spec.growth.blueprints) == dict.fromkeys(spec.host.slots, "conv3x3")
    assert spec.training.learning_rate == defaults.learning_rate
    assert not spec.training.HasField("clip_norm")
    assert spec.policy.endpoint == "default"
    assert spec.policy.mode == SELECTION_MODE_SAMPLED
    assert spec.policy.decision_timeout.seconds == 3
    assert (spec.episodes, spec.observation_spec) == (1, "seed")
    run_spec.check(spec, settings)


def test_what_is_given_is_kept(settings: KasminaSettings) -> None:
    spec = run_spec.fill_in(
        digits(
            host=HostSpec(channels=[2, 3], slots=["slot-1"]),
            training=TrainingSpec(
                batch_size=10,
                interval_batches=3,
                horizon=5,
                learning_rate=0.5,
                schedule=LEARNING_RATE_SCHEDULE_CONSTANT,
                momentum=0.0,
                weight_decay=0.0,
                clip_norm=2.0,
                label_smoothing=0.1,
                precision=PRECISION_BF16,
            ),
            growth=GrowthSpec(blueprints={"slot-1": "conv1x1"}, blend_intervals=2),
        ),
        settings,
    )
    run_spec.check(spec, settings)
    config = run_spec.trainer_config(spec, 0, threads=1)
    assert config == TrainerConfig(
        seed=config.seed,
        horizon=5,
        channels=(2, 3),
        batch_size=10,
        interval_batches=3,
        learning_rate=0.5,
        schedule="constant",
        momentum=0.0,
        weight_decay=0.0,
        clip_norm=2.0,
        label_smoothing=0.1,
        blend_intervals=2,
        blueprints=("conv3x3", "conv1x1"),
        precision="bf16",
        threads=1,
    )


def test_every_episode_has_a_seed_of_its_own_and_the_same_images(
    settings: KasminaSettings,
) -> None:
    spec = run_spec.fill_in(digits(seed=3), settings)
    other = run_spec.fill_in(digits(seed=4), settings)
    seeds = {run_spec.trainer_config(s, i, 1).seed for s in (spec, other) for i in range(3)}
    assert len(seeds) == 6
    assert run_spec.trainer_config(spec, 2, 1) == run_spec.trainer_config(spec, 2, 1)
    images = [run_spec.dataset_settings(s, None, None).split_seed for s in (spec, other)]
    assert images[0] != images[1]


@pytest.mark.parametrize(
    ("spec", "code", "field", "known"),
    [
        (
            digits(host=HostSpec(name="strong-cnn")),
            ErrorCode.UNKNOWN_HOST,
            "spec.host.name",
            "weak-cnn",
        ),
        (
            RunSpec(dataset=DatasetSpec(name="mnist")),
            ErrorCode.UNKNOWN_DATASET,
            "spec.dataset.name",
            "cifar100",
        ),
        (
            digits(policy=PolicySpec(endpoint="mine")),
            ErrorCode.UNKNOWN_POLICY,
            "spec.policy.endpoint",
            "default",
        ),
        (
            digits(growth=GrowthSpec(blueprints={"slot-0": "conv9x9"})),
            ErrorCode.UNKNOWN_BLUEPRINT,
            'spec.growth.blueprints["slot-0"]',
            "conv3x3",
        ),
        (
            digits(growth=GrowthSpec(blueprints={"slot-7": "conv3x3"})),
            ErrorCode.UNKNOWN_SLOT,
            'spec.growth.blueprints["slot-7"]',
            "slot-0, slot-1, slot-2",
        ),
        (
            digits(host=HostSpec(slots=["slot-0", "attic"])),
            ErrorCode.UNKNOWN_SLOT,
            "spec.host.slots[1]",
            "slot-0, slot-1, slot-2",
        ),
        (
            digits(observation_spec="everything"),
            ErrorCode.INVALID_ARGUMENT,
            "spec.observation_spec",
            "seed, extended",
        ),
        (
            digits(training=TrainingSpec(batch_size=1)),
            ErrorCode.INVALID_ARGUMENT,
            "spec.training.batch_size",
            "at least 2",
        ),
    ],
)
def test_an_unknown_name_is_refused_with_its_field_and_what_there_is(
    settings: KasminaSettings, spec: RunSpec, code: ErrorCode, field: str, known: str
) -> None:
    error = refusal(spec, settings)
    assert error.code is code
    assert [violation.field for violation in error.violations][:1] == [field]
    assert known in error.violations[0].description


def test_every_wrong_field_is_named_at_once(settings: KasminaSettings) -> None:
    spec = digits(host=HostSpec(name="x", slots=["y"]), policy=PolicySpec(endpoint="z"))
    fields = {violation.field for violation in refusal(spec, settings).violations}
    assert fields >= {"spec.host.name", "spec.host.slots[0]", "spec.policy.endpoint"}


def test_data_that_is_not_there_is_refused_with_where_it_looked(
    settings: KasminaSettings,
) -> None:
    error = refusal(RunSpec(dataset=DatasetSpec(name="cifar100")), settings)
    assert error.code is ErrorCode.DATASET_NOT_FOUND
    assert str(settings.data) in str(error)
    assert "LEYLINE_DATA" in str(error)


def test_a_data_file_that_was_cut_short_is_refused_by_name(
    settings: KasminaSettings, tmp_path: Path
) -> None:
    folder = tmp_path / "data" / "cifar100"
    folder.mkdir(parents=True)
    (folder / "train-00000.parquet").write_bytes(b"PAR1 and then nothing")
    error = refusal(RunSpec(dataset=DatasetSpec(name="cifar100")), settings)
    assert error.code is ErrorCode.DATASET_CORRUPT
    assert "train-00000.parquet" in str(error)
