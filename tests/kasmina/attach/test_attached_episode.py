"""A training loop that is attached is an episode: decided by a policy, recorded once, resumable."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.kasmina.attach.conftest import Neighbours
from tests.kasmina.attach.loops import (
    ADVANCE,
    GERMINATE,
    OPTIMIZERS,
    Loop,
    Plan,
    assert_same,
    batches,
    follow,
)
from tests.kasmina.neighbours import until

from kasmina.attach import AttachError, AttachOptions, MisplacedStep, UnfitModule, attach
from kasmina.network.slot import NoOpReason, Stage
from kasmina.runs.background_loop import BackgroundLoop
from leyline.v1.decision_pb2 import ACTION_TYPE_WAIT
from leyline.v1.transition_pb2 import (
    DECIDER_FALLBACK,
    DECIDER_POLICY,
    TERMINATION_ABANDONED,
    TERMINATION_CANCELLED,
    TERMINATION_HORIZON,
)

WHOLE_LIFE: Plan = {
    0: (GERMINATE, "slot-0"),
    1: (ADVANCE, "slot-0"),
    2: (ADVANCE, "slot-0"),
    4: (ADVANCE, "slot-0"),
    5: (GERMINATE, "slot-1"),
}
PATIENT = AttachOptions(blend_intervals=2, end_patience_s=20.0)


def recorded(neighbours: Neighbours, episodes: int = 1) -> None:
    """Waits until the ends of so many episodes have arrived."""
    with BackgroundLoop() as loop:
        loop.run(until(lambda: len(neighbours.experience.ends) >= episodes))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_seed_lives_its_whole_life_and_every_step_is_recorded_once(
    neighbours: Neighbours, tmp_path: Path, optimizer: str
) -> None:
    follow(neighbours, WHOLE_LIFE)
    loop = Loop.of(optimizer=optimizer)
    growth = loop.attached(neighbours, tmp_path, horizon=7, options=PATIENT)
    stages = []
    for _ in range(7):
        stages.append(growth.slots[0].stage)
        loop.run(1, growth)
    growth.end()
    recorded(neighbours)

    assert stages == [
        Stage.GERMINATED,
        Stage.TRAINING,
        Stage.BLENDING,
        Stage.BLENDING,
        Stage.FOSSILIZED,
        Stage.FOSSILIZED,
        Stage.FOSSILIZED,
    ]
    assert growth.slots[1].stage is Stage.DORMANT, "dropped at the horizon"
    transitions = neighbours.experience.episode("mine", 0)
    assert [transition.step_id.step for transition in transitions] == list(range(7))
    assert {transition.decider for transition in transitions} == {DECIDER_POLICY}
    assert [transition.terminal for transition in transitions] == [False] * 6 + [True]
    assert neighbours.experience.ends["mine", 0].termination == TERMINATION_HORIZON
    for transition, (train_loss, val_loss, val_accuracy) in zip(
        transitions, loop.curve, strict=True
    ):
        after = transition.next_snapshot
        assert after.train_loss == pytest.approx(train_loss, rel=1e-6)
        assert after.val_loss == pytest.approx(val_loss, rel=1e-6)
        assert after.val_accuracy == pytest.approx(val_accuracy, rel=1e-6)


def test_alpha_rises_with_the_optimisers_steps_and_incumbents_keep_their_moments(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    follow(neighbours, WHOLE_LIFE)
    loop = Loop.of()
    growth = loop.attached(neighbours, tmp_path, horizon=7, options=PATIENT)
    loop.run(1, growth)
    before = copy.deepcopy(loop.optimizer.state_dict()["state"])
    loop.train_epoch(growth)
    moments = loop.optimizer.state_dict()["state"]
    assert moments.keys() == before.keys()
    loss, accuracy = loop.validate()
    growth.interval(train_loss=1.0, val_loss=loss, val_accuracy=accuracy)
    held = copy.deepcopy(loop.optimizer.state_dict()["state"])
    assert growth.slots[0].stage is Stage.BLENDING
    for index, state in loop.optimizer.state_dict()["state"].items():
        assert torch.equal(state["momentum_buffer"], held[index]["momentum_buffer"])
    images, labels = batches()
    alphas = []
    for _ in range(4):
        alphas.append(growth.slots[0].alpha)
        loop.backward(images[:12], labels[:12])
        growth.step(labels[:12])
        loop.optimizer.step()
    assert alphas == [0.0, 0.125, 0.25, 0.375], "two intervals of four steps each"
    growth.end()


def test_what_was_not_measured_is_unset(neighbours: Neighbours, tmp_path: Path) -> None:
    follow(neighbours, {})
    loop = Loop.of()
    growth = loop.attached(neighbours, tmp_path, horizon=2)
    loop.run(1, growth)
    first, second = (query.snapshot for query in neighbours.policy.asked)
    assert not first.HasField("train_loss")
    for slot in first.slots:
        assert not slot.HasField("gradient_norm")
        assert not slot.HasField("activation_sparsity")
        assert not slot.HasField("seed_improvement")
    for slot in second.slots:
        assert slot.gradient_norm > 0.0
        assert 0.0 <= slot.activation_sparsity <= 1.0
        assert not slot.HasField("ablation_delta")
    growth.end()


def test_an_action_that_is_not_possible_does_nothing_and_says_why(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    follow(neighbours, {0: (ADVANCE, "slot-0"), 1: (GERMINATE, "slot-9")})
    loop = Loop.of()
    growth = loop.attached(neighbours, tmp_path, horizon=4)
    reasons = []
    for _ in range(2):
        reasons.append(growth.last_move and growth.last_move.no_op_reason)
        loop.run(1, growth)
    assert reasons == [NoOpReason.SLOT_EMPTY, NoOpReason.UNKNOWN_SLOT]
    growth.end()


def test_without_an_answer_in_time_the_loop_goes_on_with_wait_and_says_so(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    neighbours.policy.decide = lambda query: None
    loop = Loop.of()
    options = AttachOptions(decision_timeout_s=0.05, end_patience_s=20.0)
    growth = loop.attached(neighbours, tmp_path, horizon=2, options=options)
    loop.run(2, growth)
    growth.end()
    recorded(neighbours)
    for transition in neighbours.experience.episode("mine", 0):
        assert transition.decider == DECIDER_FALLBACK
        assert transition.decision.action_type == ACTION_TYPE_WAIT
        assert "no answer within" in transition.fallback_reason


def test_with_nobody_there_the_loop_learns_as_it_would_alone(tmp_path: Path) -> None:
    alone = Loop.of()
    alone.validate()
    alone.run(2)
    beside = Loop.of()
    growth = attach(
        beside.model,
        beside.model.slots,
        loss=beside.loss,
        sample=batches()[0][:2],
        optimizer=beside.optimizer,
        validated=beside.validate(),
        horizon=3,
        run_id="lonely",
        policy="127.0.0.1:1",
        experience="127.0.0.1:1",
        state_dir=tmp_path,
        options=AttachOptions(
            decision_timeout_s=0.1, policy_grace_s=0.1, experience_timeout_s=0.1, end_patience_s=0.0
        ),
    )
    beside.run(2, growth)
    assert growth.last_move is not None
    assert growth.last_move.fallback_reason is not None
    assert_same(alone.everything(), beside.everything())
    growth.end()


def test_killed_and_resumed_it_is_the_unbroken_loop_and_nothing_is_asked_or_recorded_twice(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    follow(neighbours, WHOLE_LIFE)
    unbroken = Loop.of()
    growth = unbroken.attached(neighbours, tmp_path / "one", horizon=7, options=PATIENT)
    unbroken.run(7, growth)
    growth.end()

    asked = len(neighbours.policy.asked)
    broken = Loop.of()
    lost = broken.attached(neighbours, tmp_path / "two", horizon=7, run_id="again", options=PATIENT)
    broken.run(3, lost)
    saved, held = broken.state(), copy.deepcopy(lost.state_dict())
    broken.run(1, lost)  # is recorded, and done again
    lost._connection.close(0.0)  # as the end of the process would
    resumed = Loop.of()
    growth = resumed.attached(
        neighbours, tmp_path / "two", horizon=7, run_id="again", options=PATIENT
    )
    resumed.restore(saved)
    growth.load_state_dict(held)
    resumed.run(4, growth)
    growth.end()
    recorded(neighbours, episodes=2)

    assert len(neighbours.policy.asked) - asked == 7
    assert_same(unbroken.everything(), resumed.everything())
    one, other = (neighbours.experience.episode(name, 0) for name in ("mine", "again"))
    assert len(one) == len(other) == 7
    for first, second in zip(one, other, strict=True):
        assert first.next_snapshot.val_loss == second.next_snapshot.val_loss
        assert first.execution == second.execution


def test_an_episode_that_is_not_resumed_is_abandoned_when_the_next_begins(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    follow(neighbours, {})
    first = Loop.of()
    lost = first.attached(neighbours, tmp_path, options=PATIENT)
    first.run(2, lost)
    lost._connection.close(0.0)
    second = Loop.of()
    growth = second.attached(neighbours, tmp_path, options=PATIENT)
    second.run(1, growth)
    growth.end()
    recorded(neighbours, episodes=2)
    ends = neighbours.experience.ends
    assert ends["mine", 0].termination == TERMINATION_ABANDONED
    assert ends["mine", 0].steps == 2
    assert ends["mine", 1].termination == TERMINATION_CANCELLED


def test_an_end_before_the_horizon_cancels_the_episode_and_the_model_goes_on(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    follow(neighbours, WHOLE_LIFE)
    loop = Loop.of()
    growth = loop.attached(neighbours, tmp_path, options=PATIENT)
    loop.run(2, growth)
    growth.end()
    growth.end()
    recorded(neighbours)
    assert neighbours.experience.ends["mine", 0].termination == TERMINATION_CANCELLED
    assert [slot.stage for slot in growth.slots] == [Stage.DORMANT, Stage.DORMANT]
    loop.run(1)
    with pytest.raises(ValueError, match=r"step\(\) after end\(\)"):
        growth.step(batches()[1])


def without_a_pass(loop: Loop, growth: Any) -> None:
    growth.step(batches()[1])


def before_backward(loop: Loop, growth: Any) -> None:
    images, labels = batches()
    loop.model.train()
    loop.model(images)
    growth.step(labels)


def interval_without_a_step(loop: Loop, growth: Any) -> None:
    growth.interval(train_loss=1.0, val_loss=1.0, val_accuracy=0.5)


@pytest.mark.parametrize("mistake", [without_a_pass, before_backward, interval_without_a_step])
def test_a_call_out_of_place_is_refused(
    neighbours: Neighbours, tmp_path: Path, mistake: Callable[[Loop, Any], None]
) -> None:
    follow(neighbours, {})
    loop = Loop.of()
    growth = loop.attached(neighbours, tmp_path)
    with pytest.raises(MisplacedStep):
        mistake(loop, growth)
    growth.end()


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"val_accuracy": 55.0}, "val_accuracy is 55.0; an accuracy is a fraction"),
        ({"val_accuracy": float("nan")}, "val_accuracy is nan"),
        ({"val_loss": -1.0}, "val_loss is -1.0; a loss in nats is not negative"),
    ],
)
def test_a_number_that_cannot_be_is_refused_and_changes_nothing(
    neighbours: Neighbours, tmp_path: Path, numbers: dict[str, float], words: str
) -> None:
    follow(neighbours, {})
    loop = Loop.of()
    growth = loop.attached(neighbours, tmp_path)
    loop.train_epoch(growth)
    good = {"train_loss": 1.0, "val_loss": 1.0, "val_accuracy": 0.5}
    with pytest.raises(ValueError, match=words):
        growth.interval(**{**good, **numbers})
    assert growth.interval_count == 0
    assert growth.interval(**good) is not None
    growth.end()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"run_id": "with space"}, "run_id is 'with space'"),
        ({"slots": []}, "slots has 0 names"),
        ({"slots": "first"}, "must be a sequence of names"),
        ({"slots": {"Slot 0": "first"}}, "slots has the id 'Slot 0'"),
        ({"horizon": 0}, "horizon is 0"),
        ({"options": AttachOptions(observation_spec="dream")}, "observation_spec is 'dream'"),
    ],
)
def test_a_setting_that_cannot_be_is_named(
    neighbours: Neighbours, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    loop = Loop.of()
    settings: dict[str, Any] = {
        "slots": loop.model.slots,
        "loss": loop.loss,
        "sample": batches()[0][:2],
        "optimizer": loop.optimizer,
        "validated": loop.validate(),
        "horizon": 4,
        "run_id": "mine",
        "policy": neighbours.address,
        "experience": neighbours.address,
        "state_dir": tmp_path,
    }
    with pytest.raises(ValueError, match=words):
        attach(loop.model, **{**settings, **changes})
    attach(loop.model, **settings).end()  # what was refused has left nothing behind


def test_a_model_has_slots_once_and_a_run_is_attached_once(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    follow(neighbours, {})
    loop = Loop.of()
    growth = loop.attached(neighbours, tmp_path)
    with pytest.raises(UnfitModule, match="has slots already"):
        loop.attached(neighbours, tmp_path, run_id="other")
    with pytest.raises(AttachError, match="attached already"):
        Loop.of().attached(neighbours, tmp_path)
    growth.end()


def test_a_submodule_that_there_is_not_is_named_with_those_that_are_close(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    loop = Loop.of()
    name = next(iter(loop.model.slots))
    with pytest.raises(UnfitModule, match=rf"has no '{name}x'; it has .*{name}"):
        attach(
            loop.model,
            [f"{name}x"],
            loss=loop.loss,
            sample=batches()[0][:2],
            optimizer=loop.optimizer,
            validated=loop.validate(),
            horizon=4,
            run_id="mine",
            policy=neighbours.address,
            experience=neighbours.address,
            state_dir=tmp_path,
        )
