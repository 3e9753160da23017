"""How a run's specification is refused: by the field, and with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.kasmina.runs.specs import digits, planned, simulator, situations

from chassis.errors import ErrorCode, LeylineError
from chassis.validation import violations
from kasmina.runs.run_checks import check
from kasmina.runs.run_defaults import fill_in
from kasmina.settings import KasminaSettings
from leyline.v1.decision_pb2 import (
    ACTION_TYPE_GERMINATE,
    ACTION_TYPE_WAIT,
    SELECTION_MODE_GREEDY,
    SELECTION_MODE_SAMPLED,
)
from leyline.v1.episode_pb2 import (
    DoubleRange,
    SituationRange,
)
from leyline.v1.trainer_pb2 import (
    ALPHA_SCHEDULE_COSINE,
    BLUEPRINT_CHOICE_RANDOM,
    DatasetSpec,
    GrowthSpec,
    HostSpec,
    Plan,
    PlannedAction,
    PolicySpec,
    RunSpec,
    TrainingSpec,
)


def refusal(spec: RunSpec, settings: KasminaSettings) -> LeylineError:
    """What a specification is refused with."""
    assert violations(spec) == ()
    with pytest.raises(LeylineError) as error:
        check(fill_in(spec, settings), settings)
    return error.value


WAIT_LATE = PlannedAction(step=20, action_type=ACTION_TYPE_WAIT)
IN_THE_ATTIC = PlannedAction(step=0, action_type=ACTION_TYPE_GERMINATE, slot_id="attic")
BAD = ErrorCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("spec", "code", "field", "words"),
    [
        (
            digits(host=HostSpec(name="strong-cnn")),
            ErrorCode.UNKNOWN_HOST,
            "spec.host.name",
            "resnet18, simulator, vit, weak-cnn",
        ),
        (
            digits(host=HostSpec(name="vit", options={"width": "9"})),
            BAD,
            "spec.host.options",
            "vit knows",
        ),
        (
            digits(host=HostSpec(name="vit", options={"depth": "none"})),
            BAD,
            "spec.host.options",
            "whole number",
        ),
        (
            digits(host=HostSpec(name="resnet18", channels=[1, 2])),
            BAD,
            "spec.host.channels",
            "resnet18 has 4",
        ),
        (RunSpec(), BAD, "spec.dataset.name", "digits"),
        (
            digits(episodes=1_000_000, first_episode=5, episode_stride=2000),
            BAD,
            "spec.episodes",
            "the last one would be 1999998005",
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
            digits(growth=GrowthSpec(planted={"slot-0": "conv9x9"})),
            ErrorCode.UNKNOWN_BLUEPRINT,
            'spec.growth.planted["slot-0"]',
            "conv3x3",
        ),
        (
            digits(growth=GrowthSpec(choice=BLUEPRINT_CHOICE_RANDOM, candidates=["norm", "oak"])),
            ErrorCode.UNKNOWN_BLUEPRINT,
            "spec.growth.candidates[1]",
            "conv3x3",
        ),
        (
            digits(growth=GrowthSpec(blueprints={"slot-7": "conv3x3"})),
            ErrorCode.UNKNOWN_SLOT,
            'spec.growth.blueprints["slot-7"]',
            "slot-0, slot-1, slot-2",
        ),
        (
            digits(host=HostSpec(slots=["slot-1"]), growth=GrowthSpec(planted={"slot-0": "norm"})),
            ErrorCode.UNKNOWN_SLOT,
            'spec.growth.planted["slot-0"]',
            "known: slot-1",
        ),
        (
            digits(host=HostSpec(slots=["slot-0", "attic"])),
            ErrorCode.UNKNOWN_SLOT,
            "spec.host.slots[1]",
            "slot-0, slot-1, slot-2",
        ),
        (
            digits(policy=planned(IN_THE_ATTIC)),
            ErrorCode.UNKNOWN_SLOT,
            "spec.policy.plan.actions[0].slot_id",
            "slot-0, slot-1, slot-2",
        ),
        (
            digits(policy=planned(WAIT_LATE)),
            BAD,
            "spec.policy.plan.actions[0].step",
            "less than the horizon, 20",
        ),
        (digits(policy=planned(endpoint="default")), BAD, "spec.policy.endpoint", "asks no policy"),
        (
            digits(policy=planned(mode=SELECTION_MODE_SAMPLED)),
            BAD,
            "spec.policy.mode",
            "asks no policy",
        ),
        (
            digits(growth=GrowthSpec(candidates=["norm"])),
            BAD,
            "spec.growth.candidates",
            "set blueprints",
        ),
        (
            digits(
                growth=GrowthSpec(choice=BLUEPRINT_CHOICE_RANDOM, blueprints={"slot-0": "norm"})
            ),
            BAD,
            "spec.growth.blueprints",
            "set candidates",
        ),
        (
            digits(growth=GrowthSpec(planted={"slot-0": "norm"}, blueprints={"slot-0": "norm"})),
            BAD,
            'spec.growth.blueprints["slot-0"]',
            "from step 0 on",
        ),
        (
            digits(observation_spec="everything"),
            BAD,
            "spec.observation_spec",
            "seed, extended",
        ),
        (
            digits(training=TrainingSpec(batch_size=1)),
            BAD,
            "spec.training.batch_size",
            "at least 2",
        ),
        (
            digits(training=TrainingSpec(constant_share=0.3)),
            BAD,
            "spec.training.constant_share",
            "CONSTANT_THEN_COSINE",
        ),
        (
            digits(situations=SituationRange(name="wild")),
            BAD,
            "spec.situations.name",
            "held-out, mixed",
        ),
        (
            digits(situations=SituationRange(name="held-out", dud_probability=0.9)),
            BAD,
            "spec.situations.name",
            "other distributions",
        ),
        (
            digits(situations=situations(bottleneck_probability=0.5)),
            BAD,
            "spec.situations.bottleneck_factor",
            "required",
        ),
        (
            digits(
                host=HostSpec(name="vit"),
                situations=situations(
                    bottleneck_probability=0.5, bottleneck_factor=DoubleRange(low=0.5, high=0.5)
                ),
            ),
            BAD,
            "spec.situations.bottleneck_probability",
            "no widths of their own",
        ),
        (
            RunSpec(
                dataset=DatasetSpec(name="digits", training_images=100),
                situations=situations(training_images=[50, 200]),
            ),
            BAD,
            "spec.situations.training_images",
            "100",
        ),
        (simulator(dataset=DatasetSpec(name="digits")), BAD, "spec.dataset", "needs no data"),
        (simulator(options={"colour": "red"}), BAD, "spec.host.options", "family, slots"),
        (simulator(options={"family": "wild"}), BAD, "spec.host.options", "held-out"),
        (simulator(options={"slots": "65"}), BAD, "spec.host.options", "from 1 to 64"),
        (
            simulator(training=TrainingSpec(batch_size=8)),
            BAD,
            "spec.training.batch_size",
            "the simulator's family",
        ),
        (
            simulator(situations=situations(dud_probability=0.3)),
            BAD,
            "spec.situations",
            "host.options family",
        ),
        (
            simulator(growth=GrowthSpec(planted={"slot-0": "norm"})),
            BAD,
            "spec.growth.planted",
            "without seeds",
        ),
        (
            simulator(growth=GrowthSpec(alpha_schedule=ALPHA_SCHEDULE_COSINE)),
            BAD,
            "spec.growth.alpha_schedule",
            "linear",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_with_its_field_and_what_can_be(
    settings: KasminaSettings, spec: RunSpec, code: ErrorCode, field: str, words: str
) -> None:
    error = refusal(spec, settings)
    assert error.code is code
    assert [violation.field for violation in error.violations][:1] == [field]
    assert words in error.violations[0].description


def test_every_wrong_field_is_named_at_once(settings: KasminaSettings) -> None:
    names = digits(
        host=HostSpec(name="x"),
        policy=PolicySpec(endpoint="y"),
        growth=GrowthSpec(planted={"slot-0": "z"}),
    )
    fields = {violation.field for violation in refusal(names, settings).violations}
    assert fields == {
        "spec.host.name",
        "spec.policy.endpoint",
        'spec.growth.planted["slot-0"]',
    }
    slots = digits(host=HostSpec(slots=["a"]), growth=GrowthSpec(blueprints={"b": "norm"}))
    fields = {violation.field for violation in refusal(slots, settings).violations}
    assert fields == {"spec.host.slots[0]", 'spec.growth.blueprints["b"]'}


def test_a_plan_decides_greedily_and_asks_nobody(settings: KasminaSettings) -> None:
    spec = fill_in(digits(policy=planned()), settings)
    assert spec.policy == PolicySpec(plan=Plan(), mode=SELECTION_MODE_GREEDY)


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
