"""What a run's specification means."""

from __future__ import annotations

import pytest
from tests.kasmina.conftest import CLASSES, striped_images
from tests.kasmina.runs.specs import digits, planned, simulator, situations

from chassis.validation import violations
from kasmina.data.dataset import Dataset
from kasmina.network.blueprint import blueprint_names
from kasmina.runs.run_checks import check
from kasmina.runs.run_control import RunFailed
from kasmina.runs.run_defaults import fill_in, fill_in_data
from kasmina.runs.run_spec import dataset_settings, trainer_config
from kasmina.runs.situation import shipped_range
from kasmina.settings import KasminaSettings
from kasmina.training.configuration import EpisodeSeeds, TrainerConfig
from leyline.v1.decision_pb2 import (
    SELECTION_MODE_SAMPLED,
)
from leyline.v1.episode_pb2 import (
    EpisodeOrigin,
    Seeds,
    Situation,
    SituationRange,
)
from leyline.v1.trainer_pb2 import (
    ALPHA_SCHEDULE_SIGMOID,
    BLUEPRINT_CHOICE_FIXED,
    BLUEPRINT_CHOICE_RANDOM,
    BLUEPRINT_CHOICE_ROUND_ROBIN,
    LEARNING_RATE_SCHEDULE_CONSTANT_THEN_COSINE,
    PRECISION_BF16,
    PRECISION_FP32,
    Compute,
    DatasetSpec,
    GrowthSpec,
    HostSpec,
    PolicySpec,
    RunSpec,
    TrainingSpec,
)

FP32 = Compute(device="cpu", precision=PRECISION_FP32, threads=1)
ORIGIN = EpisodeOrigin(seeds=Seeds(initialization=1, order=2, augmentation=3, blueprint=4))


def small_images(training: int, validation: int) -> Dataset:
    """Stripes, so many."""
    images = striped_images(training, seed=1, side=8), striped_images(validation, seed=2, side=8)
    return Dataset("stripes", *images, classes=CLASSES, augmented=True)


def test_a_specification_that_names_only_its_data_is_filled_in(settings: KasminaSettings) -> None:
    requested = digits()
    spec = fill_in(requested, settings)
    assert requested == digits()
    defaults = TrainerConfig()
    assert (spec.host.name, tuple(spec.host.channels)) == (defaults.host, (16, 32, 64))
    assert list(spec.host.slots) == ["slot-0", "slot-1", "slot-2"]
    assert dict(spec.growth.blueprints) == dict.fromkeys(spec.host.slots, "conv3x3")
    assert spec.training.learning_rate == defaults.learning_rate
    assert spec.training.interval_epochs == 1
    assert not spec.training.HasField("clip_norm")
    assert not spec.training.HasField("constant_share")
    assert spec.policy.endpoint == "default"
    assert spec.policy.mode == SELECTION_MODE_SAMPLED
    assert spec.policy.decision_timeout.seconds == 3
    assert (spec.episodes, spec.observation_spec) == (1, "seed")
    check(spec, settings)


@pytest.mark.parametrize(
    ("name", "channels"),
    [("weak-cnn", [16, 32, 64]), ("resnet18", [64, 128, 256, 512]), ("vit", [96, 96, 96])],
)
def test_a_host_that_is_only_named_shows_its_own_widths_and_slots(
    settings: KasminaSettings, name: str, channels: list[int]
) -> None:
    spec = fill_in(digits(host=HostSpec(name=name)), settings)
    assert list(spec.host.channels) == channels
    assert list(spec.host.slots) == [f"slot-{depth}" for depth in range(len(channels))]
    check(spec, settings)


def test_what_is_given_is_kept(settings: KasminaSettings) -> None:
    spec = fill_in(
        digits(
            host=HostSpec(channels=[2, 3, 4], slots=["slot-0", "slot-2"], options={"blocks": "2"}),
            training=TrainingSpec(
                batch_size=10,
                interval_batches=3,
                horizon=5,
                learning_rate=0.5,
                schedule=LEARNING_RATE_SCHEDULE_CONSTANT_THEN_COSINE,
                constant_share=0.25,
                momentum=0.0,
                weight_decay=0.0,
                clip_norm=2.0,
                label_smoothing=0.1,
                precision=PRECISION_BF16,
                compile=True,
            ),
            growth=GrowthSpec(
                choice=BLUEPRINT_CHOICE_ROUND_ROBIN,
                candidates=["norm", "conv1x1"],
                blend_intervals=2,
                alpha_schedule=ALPHA_SCHEDULE_SIGMOID,
                planted={"slot-2": "conv1x1"},
            ),
        ),
        settings,
    )
    check(spec, settings)
    compute = Compute(device="cpu", precision=PRECISION_BF16, threads=3, compiled=True)
    assert trainer_config(spec, ORIGIN, compute) == TrainerConfig(
        seeds=EpisodeSeeds(initialization=1, order=2, augmentation=3, blueprint=4),
        horizon=5,
        channels=(2, 3, 4),
        host_options={"blocks": "2"},
        slots=("slot-0", "slot-2"),
        planted={"slot-2": "conv1x1"},
        batch_size=10,
        interval_batches=3,
        learning_rate=0.5,
        schedule="constant-then-cosine",
        constant_share=0.25,
        momentum=0.0,
        weight_decay=0.0,
        clip_norm=2.0,
        label_smoothing=0.1,
        blend_intervals=2,
        alpha_schedule="sigmoid",
        blueprint_choice="round-robin",
        candidates=("norm", "conv1x1"),
        precision="bf16",
        compile=True,
        threads=3,
    )


def test_a_situation_takes_the_place_of_what_the_specification_says(
    settings: KasminaSettings,
) -> None:
    spec = fill_in(digits(), settings)
    situation = Situation(range="mine", channels=[16, 4, 64], learning_rate=0.3, duds=["norm"])
    origin = EpisodeOrigin(seeds=ORIGIN.seeds, situation=situation)
    config = trainer_config(spec, origin, FP32)
    assert (config.channels, config.learning_rate, config.duds) == ((16, 4, 64), 0.3, ("norm",))
    plain = trainer_config(spec, ORIGIN, FP32)
    assert (plain.channels, plain.learning_rate, plain.duds) == ((16, 32, 64), 0.1, ())


SETTLED_AGAIN = {
    "nothing": digits(),
    "epochs": digits(training=TrainingSpec(interval_epochs=3, batch_size=7)),
    "batches": digits(training=TrainingSpec(interval_batches=5)),
    "bend": digits(training=TrainingSpec(schedule=LEARNING_RATE_SCHEDULE_CONSTANT_THEN_COSINE)),
    "random": digits(growth=GrowthSpec(choice=BLUEPRINT_CHOICE_RANDOM)),
    "planted": digits(growth=GrowthSpec(planted={"slot-1": "norm"})),
    "vit": digits(host=HostSpec(name="vit", options={"dropout": "0.1"}, slots=["slot-2"])),
    "plan": digits(policy=planned()),
    "range": digits(situations=situations(dud_probability=0.5)),
    "mixed": RunSpec(
        dataset=DatasetSpec(name="digits", training_images=10_000),
        situations=SituationRange(name="mixed"),
    ),
    "simulator": simulator(),
    "simulated slots": simulator(options={"family": "default", "slots": "6"}, episodes=9),
    "simulator fixed": simulator(growth=GrowthSpec(choice=BLUEPRINT_CHOICE_FIXED)),
}


@pytest.mark.parametrize("requested", SETTLED_AGAIN.values(), ids=SETTLED_AGAIN.keys())
def test_a_settled_specification_given_again_is_the_same_run(
    settings: KasminaSettings, requested: RunSpec
) -> None:
    filled = fill_in(requested, settings)
    check(filled, settings)
    assert fill_in(filled, settings) == filled
    assert violations(filled) == ()
    if filled.host.name == "simulator":
        return
    settled = RunSpec()
    settled.CopyFrom(filled)
    if settled.HasField("situations"):
        settled.situations.ClearField("training_images")  # more than there are here
    fill_in_data(settled, small_images(training=96, validation=40))
    settled.training.precision = PRECISION_FP32
    assert violations(settled) == ()
    again = fill_in(settled, settings)
    fill_in_data(again, small_images(training=96, validation=40))
    assert again == settled
    assert trainer_config(again, ORIGIN, FP32) == trainer_config(settled, ORIGIN, FP32)


def test_a_driven_run_has_no_policy_of_its_own(settings: KasminaSettings) -> None:
    spec = fill_in(digits(policy=PolicySpec(endpoint="nobody")), settings, driven=True)
    assert not spec.HasField("policy")
    check(spec, settings)
    assert fill_in(spec, settings, driven=True) == spec


def test_intervals_are_counted_in_batches_once_the_images_are_known(
    settings: KasminaSettings,
) -> None:
    training = TrainingSpec(interval_epochs=3, batch_size=10)
    spec = fill_in(digits(training=training), settings)
    fill_in_data(spec, small_images(training=95, validation=40))
    assert (spec.training.interval_batches, spec.training.interval_epochs) == (28, 0)
    assert (spec.dataset.training_images, spec.dataset.validation_images) == (95, 40)


def test_situations_cannot_have_more_images_than_there_are(settings: KasminaSettings) -> None:
    spec = fill_in(digits(situations=situations(training_images=[90, 97])), settings)
    with pytest.raises(RunFailed, match=r"goes up to 97, and .* has 96"):
        fill_in_data(spec, small_images(training=96, validation=40))


def test_a_shipped_range_that_is_only_named_shows_its_distributions(
    settings: KasminaSettings,
) -> None:
    spec = fill_in(digits(situations=SituationRange(name="held-out")), settings)
    assert spec.situations == shipped_range("held-out")


def test_every_run_has_images_of_its_own_and_a_data_seed_pairs_them(
    settings: KasminaSettings,
) -> None:
    one, other, paired = (
        dataset_settings(spec, None, None).split_seed
        for spec in (
            digits(seed=3),
            digits(seed=4),
            digits(seed=5, seeds=Seeds(data=11)),
        )
    )
    assert len({one, other, paired}) == 3
    again = digits(seed=6, seeds=Seeds(data=11))
    assert dataset_settings(again, None, None).split_seed == paired


def test_the_simulator_is_filled_in_from_its_family(settings: KasminaSettings) -> None:
    spec = fill_in(simulator(options={"slots": "6"}), settings)
    check(spec, settings)
    assert dict(spec.host.options) == {"family": "default", "slots": "6"}
    assert list(spec.host.slots) == [f"slot-{depth}" for depth in range(6)]
    assert spec.training == TrainingSpec(horizon=30)
    assert spec.growth.choice == BLUEPRINT_CHOICE_RANDOM
    assert sorted(spec.growth.candidates) == sorted(blueprint_names())
    assert not spec.HasField("dataset")
