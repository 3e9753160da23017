"""A model in somebody else's loop grows by a remote policy, and what became of it is recorded."""

from __future__ import annotations

import copy
import dataclasses
import io
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.kasmina.attach.conftest import Neighbours
from tests.kasmina.attach.loops import (
    ADVANCE,
    CULL,
    GERMINATE,
    OPTIMIZERS,
    Loop,
    Plan,
    batches,
    follow,
)
from torch import Tensor, nn

from kasmina.attach import AttachOptions, Growth
from kasmina.network.slot import Action, NoOpReason, Stage
from leyline.v1.decision_pb2 import ActionType
from leyline.v1.snapshot_pb2 import MultiSlotSnapshot
from leyline.v1.snapshot_pb2 import Stage as StageMessage
from leyline.v1.transition_pb2 import (
    DECIDER_POLICY,
    EXECUTION_RESULT_EXECUTED,
    EXECUTION_RESULT_NO_OP,
    TERMINATION_HORIZON,
)
from leyline.v1.transition_pb2 import NoOpReason as NoOpReasonMessage

# A slow machine must not be taken for a neighbour that is away.
OPTIONS = AttachOptions(blend_intervals=1, decision_timeout_s=60.0, experience_timeout_s=60.0)
WHOLE_LIFE: Plan = {
    0: (GERMINATE, "slot-1"),
    1: (ADVANCE, "slot-1"),
    2: (ADVANCE, "slot-1"),
    3: (ADVANCE, "slot-1"),
}


def moments(growth: Growth, slot_id: str) -> dict[str, Tensor]:
    """Of the seed in a slot, by parameter and name."""
    state = growth.state_dict()["growth"]["optimizers"][slot_id]["state"]
    return {
        f"{index}/{name}": moment.clone()
        for index, known in state.items()
        for name, moment in known.items()
        if isinstance(moment, Tensor)
    }


def stages(snapshots: list[MultiSlotSnapshot], depth: int) -> list[str]:
    return [
        StageMessage.Name(snapshot.slots[depth].stage).removeprefix("STAGE_")
        for snapshot in snapshots
    ]


def test_the_policy_is_asked_at_the_temperature_of_the_options(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    loop = Loop.of("features")
    options = dataclasses.replace(OPTIONS, temperature=0.5)
    with loop.attached(neighbours, tmp_path, horizon=2, options=options) as growth:
        loop.run(2, growth)
    assert [query.temperature for query in neighbours.policy.asked] == [0.5, 0.5]


@pytest.mark.parametrize("model", ["skipping", "tokens", "features"])
def test_a_seed_lives_from_germination_to_the_end_as_the_policy_says(
    neighbours: Neighbours, tmp_path: Path, model: str
) -> None:
    follow(neighbours, WHOLE_LIFE)
    loop = Loop.of(model)
    with loop.attached(neighbours, tmp_path, horizon=6, options=OPTIONS) as growth:
        loop.run(6, growth)
        assert growth.last_move is None
    seen = [query.snapshot for query in neighbours.policy.asked]
    life = ["DORMANT", "GERMINATED", "TRAINING", "BLENDING", "FOSSILIZED", "FOSSILIZED"]
    assert stages(seen, depth=1) == life
    assert stages(seen, depth=0) == ["DORMANT"] * 6
    assert [slot.stage for slot in growth.slots] == [Stage.DORMANT, Stage.FOSSILIZED]
    images, _ = batches()
    loop.model.eval()
    assert torch.equal(loop.model(images), growth.network(images))
    assert not torch.equal(loop.model(images), growth.network.without(growth.slots[1], images))


def test_every_transition_is_recorded_once_and_the_last_one_ends_the_episode(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    follow(neighbours, WHOLE_LIFE)
    loop = Loop.of("features")
    growth = loop.attached(neighbours, tmp_path, horizon=5, options=OPTIONS)
    loop.run(5, growth)
    growth.end()
    recorded = neighbours.experience.episode("mine", 0)
    assert [transition.step_id.step for transition in recorded] == [0, 1, 2, 3, 4]
    assert [transition.terminal for transition in recorded] == [False] * 4 + [True]
    for before, after in itertools.pairwise(recorded):
        assert before.next_snapshot == after.snapshot
    curve = [transition.next_snapshot for transition in recorded]
    assert [(s.train_loss, s.val_loss, s.val_accuracy) for s in curve] == loop.curve
    assert {transition.decider for transition in recorded} == {DECIDER_POLICY}
    assert recorded[0].execution.blueprint == "conv3x3"
    assert [transition.facts.training_images for transition in recorded] == [48] * 5
    assert [transition.facts.validation_images for transition in recorded] == [48] * 5
    end = neighbours.experience.ends["mine", 0]
    assert (end.termination, end.steps) == (TERMINATION_HORIZON, 5)
    assert sum(neighbours.experience.messages) == 6, "five transitions and an end, each sent once"


def test_what_cannot_be_done_is_a_no_op_with_its_reason(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    steps: list[tuple[ActionType.ValueType, str, NoOpReason | None]] = [
        (ADVANCE, "slot-0", NoOpReason.SLOT_EMPTY),
        (GERMINATE, "slot-0", None),
        (GERMINATE, "slot-0", NoOpReason.SLOT_OCCUPIED),
        (ADVANCE, "slot-0", None),
        (ADVANCE, "slot-0", None),
        (ADVANCE, "slot-0", NoOpReason.ALPHA_NOT_REACHED),
        (ADVANCE, "slot-0", None),
        (CULL, "slot-0", NoOpReason.SEED_FOSSILIZED),
        (GERMINATE, "slot-9", NoOpReason.UNKNOWN_SLOT),
    ]
    follow(neighbours, {step: (action, slot) for step, (action, slot, _) in enumerate(steps)})
    options = AttachOptions(blend_intervals=2, decision_timeout_s=60.0, experience_timeout_s=60.0)
    loop = Loop.of("features")
    growth = loop.attached(neighbours, tmp_path, horizon=9, options=options)
    told = []
    for _ in steps:
        assert growth.last_move is not None
        told.append(growth.last_move.no_op_reason)
        loop.run(1, growth)
    growth.end()
    assert told == [reason for _, _, reason in steps]
    for transition, reason in zip(neighbours.experience.episode("mine", 0), told, strict=True):
        execution = transition.execution
        if reason is None:
            assert execution.result == EXECUTION_RESULT_EXECUTED
        else:
            assert execution.result == EXECUTION_RESULT_NO_OP
            assert NoOpReasonMessage.Name(execution.no_op_reason) == f"NO_OP_REASON_{reason}"


def test_a_move_says_what_was_decided_and_by_whom(neighbours: Neighbours, tmp_path: Path) -> None:
    follow(neighbours, {1: (GERMINATE, "slot-1")})
    loop = Loop.of("features")
    with loop.attached(neighbours, tmp_path, options=OPTIONS) as growth:
        move = growth.last_move
        assert move is not None
        assert (move.action, move.slot_id, move.policy_version) == (Action.WAIT, None, "coin-1")
        loop.run(1, growth)
        move = growth.last_move
        assert move is not None
        assert (move.action, move.slot_id, move.fallback_reason) == (
            Action.GERMINATE,
            "slot-1",
            None,
        )


def test_alpha_rises_with_every_step_of_the_optimiser(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    follow(neighbours, WHOLE_LIFE)
    loop = Loop.of("features")
    options = AttachOptions(blend_intervals=2, decision_timeout_s=60.0)
    with loop.attached(neighbours, tmp_path, options=options) as growth:
        loop.run(2, growth)
        slot = growth.slots[1]
        images, labels = batches()
        rising = []
        for _ in range(2):
            for chosen in torch.arange(48).split(12):
                rising.append(slot.alpha)
                loop.backward(images[chosen], labels[chosen])
                growth.step(labels[chosen])
                loop.optimizer.step()
            growth.interval(train_loss=1.0, val_loss=1.0, val_accuracy=0.5)
        assert rising == [step / 8 for step in range(8)]
        assert slot.alpha == 1.0


def test_a_seed_changes_nothing_when_it_starts_to_blend_and_then_takes_part(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    follow(neighbours, WHOLE_LIFE)
    loop = Loop.of("skipping")
    with loop.attached(neighbours, tmp_path, options=OPTIONS) as growth:
        loop.run(2, growth)
        slot = growth.slots[1]
        assert slot.stage is Stage.BLENDING
        images, _ = batches()
        loop.model.eval()
        assert torch.equal(loop.model(images), growth.network.without(slot, images))
        loop.run(1, growth)
        loop.model.eval()
        assert not torch.equal(loop.model(images), growth.network.without(slot, images))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_growth_leaves_the_moments_of_those_that_are_there_alone(
    neighbours: Neighbours, tmp_path: Path, optimizer: str
) -> None:
    follow(
        neighbours,
        {
            0: (GERMINATE, "slot-0"),
            1: (ADVANCE, "slot-0"),
            2: (GERMINATE, "slot-1"),
            3: (ADVANCE, "slot-1"),
            4: (CULL, "slot-1"),
            5: (ADVANCE, "slot-0"),
        },
    )
    loop = Loop.of("features", optimizer)
    with loop.attached(neighbours, tmp_path, options=OPTIONS) as growth:
        loop.run(1, growth)
        assert moments(growth, "slot-0") == {}, "a new seed has none"
        for step in range(2, 6):
            train_loss = loop.train_epoch(growth)
            host, seed = copy.deepcopy(loop.optimizer.state_dict()), moments(growth, "slot-0")
            growth.interval(train_loss=train_loss, val_loss=1.0, val_accuracy=0.5)
            kept = moments(growth, "slot-0")
            assert seed, f"slot-0 learns, step {step}"
            assert seed.keys() == kept.keys()
            assert all(torch.equal(seed[name], kept[name]) for name in seed)
            after = loop.optimizer.state_dict()
            assert after["param_groups"] == host["param_groups"]
            for index, known in host["state"].items():
                for name, moment in known.items():
                    assert torch.equal(torch.as_tensor(moment), after["state"][index][name])
        optimizers = growth.state_dict()["growth"]["optimizers"]
        assert optimizers.keys() == {"slot-0"}, "a culled seed takes its moments along"


def test_seeds_follow_the_learning_rate_of_the_loop(neighbours: Neighbours, tmp_path: Path) -> None:
    follow(neighbours, {0: (GERMINATE, "slot-0"), 1: (ADVANCE, "slot-0")})
    loop = Loop.of("features")
    scheduler = torch.optim.lr_scheduler.ExponentialLR(loop.optimizer, 0.5)
    with loop.attached(neighbours, tmp_path, options=OPTIONS) as growth:
        for _ in range(3):
            train_loss = loop.train_epoch(growth)
            scheduler.step()
            growth.interval(train_loss=train_loss, val_loss=1.0, val_accuracy=0.5)
        (group,) = growth.state_dict()["growth"]["optimizers"]["slot-0"]["param_groups"]
    assert group["lr"] == 0.0125, "of the third interval"
    assert group["weight_decay"] == 1e-3
    rates = [query.snapshot.learning_rate for query in neighbours.policy.asked]
    assert rates == pytest.approx([0.05, 0.025, 0.0125, 0.00625])


@pytest.mark.parametrize("name", ["Adagrad", "Adam", "NAdam", "RAdam", "RMSprop", "Rprop"])
def test_seeds_learn_by_the_optimiser_of_the_loop_whatever_it_is(
    neighbours: Neighbours, tmp_path: Path, name: str
) -> None:
    follow(neighbours, WHOLE_LIFE)
    loop = Loop.of("features")
    make: Callable[..., torch.optim.Optimizer] = getattr(torch.optim, name)
    loop.optimizer = make(loop.model.parameters(), lr=0.01)
    with loop.attached(neighbours, tmp_path, horizon=5, options=OPTIONS) as growth:
        loop.run(2, growth)
        before = [parameter.clone() for parameter in growth.network.seeds.parameters()]
        loop.run(2, growth)
        after = list(growth.network.seeds.parameters())
        assert all((one != other).any() for one, other in zip(before, after, strict=True))
        assert growth.slots[1].stage is Stage.FOSSILIZED


def test_a_seed_can_have_an_optimiser_of_its_own(neighbours: Neighbours, tmp_path: Path) -> None:
    follow(neighbours, WHOLE_LIFE)
    loop = Loop.of("features")
    loop.optimizer = torch.optim.LBFGS(loop.model.parameters())
    options = AttachOptions(seed_optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.3))
    with loop.attached(neighbours, tmp_path, options=options) as growth:
        images, labels = batches()
        for _ in range(2):
            loop.backward(images, labels)
            growth.step(labels)
            growth.interval(train_loss=1.0, val_loss=1.0, val_accuracy=0.5)
        (group,) = growth.state_dict()["growth"]["optimizers"]["slot-1"]["param_groups"]
        assert group["lr"] == 0.3


def test_what_was_not_measured_is_unset(neighbours: Neighbours, tmp_path: Path) -> None:
    follow(neighbours, {1: (GERMINATE, "slot-0")})
    loop = Loop.of("features")
    options = AttachOptions(telemetry_every=1000, decision_timeout_s=60.0)
    with loop.attached(neighbours, tmp_path, options=options) as growth:
        loop.run(2, growth)
        images, labels = batches()
        loop.backward(images, labels)  # the interval ends before its sampled batch
        growth.step(labels)
        growth.interval(train_loss=1.0, val_loss=1.0, val_accuracy=0.5)
    untrained, first, second, short = [query.snapshot for query in neighbours.policy.asked]
    measured = ("gradient_norm", "activation_sparsity", "gradmax_norm", "seed_improvement")

    def of_slot(snapshot: MultiSlotSnapshot) -> list[str]:
        set_here = [field.name for field, _ in snapshot.slots[0].ListFields()]
        return [name for name in measured if name in set_here]

    assert not untrained.HasField("train_loss")
    assert of_slot(untrained) == []
    assert first.HasField("train_loss")
    assert of_slot(first) == ["gradient_norm", "activation_sparsity"], "which batch is last?"
    assert of_slot(second) == list(measured)
    assert of_slot(short) == ["seed_improvement"]
    assert not any(
        slot.HasField("ablation_delta") for snapshot in (first, second) for slot in snapshot.slots
    )


def test_what_a_live_seed_is_worth_is_measured_on_the_sample_that_is_given(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    follow(neighbours, WHOLE_LIFE)
    loop = Loop.of("features")
    options = AttachOptions(blend_intervals=1, decision_timeout_s=60.0, ablation=batches(5))
    with loop.attached(neighbours, tmp_path, options=options) as growth:
        loop.run(4, growth)
    told = [query.snapshot.slots[1].HasField("ablation_delta") for query in neighbours.policy.asked]
    assert told == [False, False, False, True, True]


def test_at_the_horizon_a_seed_that_only_blends_is_dropped_before_the_last_validation(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    follow(neighbours, {0: (GERMINATE, "slot-1"), 1: (ADVANCE, "slot-1"), 2: (ADVANCE, "slot-1")})
    loop = Loop.of("features")
    with loop.attached(neighbours, tmp_path, horizon=4, options=OPTIONS) as growth:
        loop.run(4, growth)
        assert [slot.stage for slot in growth.slots] == [Stage.DORMANT, Stage.DORMANT]
    assert loop.validate() == loop.curve[-1][1:]


@pytest.mark.parametrize("late", [False, True], ids=["before", "after attaching"])
def test_a_model_that_is_wrapped_grows_all_the_same(
    neighbours: Neighbours, tmp_path: Path, late: bool
) -> None:
    follow(neighbours, WHOLE_LIFE)
    bare = Loop.of("features")
    with bare.attached(neighbours, tmp_path / "bare", horizon=5, options=OPTIONS) as growth:
        bare.run(5, growth)
    wrapped = Loop.of("features")
    wrapper: nn.Module = nn.DataParallel(wrapped.model)
    if not late:
        wrapper.slots = tuple(f"module.{name}" for name in wrapped.model.slots)  # type: ignore[assignment]
        wrapped.model = wrapper  # type: ignore[assignment]
    growth = wrapped.attached(
        neighbours, tmp_path / "wrapped", horizon=5, run_id="wrapped", options=OPTIONS
    )
    wrapped.model = wrapper  # type: ignore[assignment]
    with growth:
        wrapped.run(5, growth)
    assert wrapped.curve == bare.curve
    assert growth.slots[1].stage is Stage.FOSSILIZED


def test_a_copy_of_the_model_computes_what_it_does_and_grows_no_more(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    follow(neighbours, WHOLE_LIFE)
    loop = Loop.of("features")
    with loop.attached(neighbours, tmp_path, options=OPTIONS) as growth:
        loop.run(5, growth)
        copied = copy.deepcopy(loop.model)
        file = io.BytesIO()
        torch.save(loop.model, file)
        file.seek(0)
        saved = torch.load(file, weights_only=False)
        images, _ = batches()
        logits = loop.model.eval()(images)
        assert torch.equal(copied.eval()(images), logits)
        assert torch.equal(saved.eval()(images), logits)
        copied.train()(images).sum().backward()
        loop.run(1, growth)  # the copy's pass is none of the model's


def test_the_names_in_the_models_state_stay_as_they_were(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    follow(neighbours, WHOLE_LIFE)
    names = list(Loop.of("features").model.state_dict())
    loop = Loop.of("features")
    with loop.attached(neighbours, tmp_path, options=OPTIONS) as growth:
        loop.run(4, growth)
        assert list(loop.model.state_dict()) == names
        assert len(list(growth.network.parameters())) > len(list(loop.model.parameters()))
