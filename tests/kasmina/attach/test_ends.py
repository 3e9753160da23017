"""However a training loop ends, its episode ends with a termination; one bad batch ends nothing."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from tests.kasmina.attach.conftest import Neighbours
from tests.kasmina.attach.loops import ADVANCE, GERMINATE, Loop, Plan, assert_same, batches, follow
from torch import nn

from kasmina.attach import AttachOptions, Growth
from leyline.v1.transition_pb2 import (
    TERMINATION_CANCELLED,
    TERMINATION_FAILED,
    TERMINATION_HORIZON,
    EpisodeEnd,
)

OPTIONS = AttachOptions(
    blend_intervals=1, decision_timeout_s=60.0, experience_timeout_s=60.0, end_patience_s=60.0
)
BLENDS: Plan = {0: (GERMINATE, "slot-0"), 1: (ADVANCE, "slot-0"), 2: (ADVANCE, "slot-0")}


def the_end(neighbours: Neighbours) -> EpisodeEnd:
    return neighbours.experience.ends["mine", 0]


def sent(neighbours: Neighbours) -> int:
    return sum(neighbours.experience.messages)


def seeds(growth: Growth) -> list[str]:
    return [slot.slot_id for slot in growth.slots if slot.has_seed]


def test_an_exception_in_the_loop_ends_the_episode_as_failed(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    follow(neighbours, BLENDS)
    loop = Loop.of("features")

    def train() -> None:
        with loop.attached(neighbours, tmp_path, options=OPTIONS) as growth:
            loop.run(3, growth)
            loop.backward(*batches())
            raise ZeroDivisionError("a batch of none")

    with pytest.raises(ZeroDivisionError):
        train()
    end = the_end(neighbours)
    assert (end.termination, end.steps) == (TERMINATION_FAILED, 3)
    assert end.message == "ZeroDivisionError: a batch of none"
    assert len(neighbours.experience.episode("mine", 0)) == 3
    loop.run(1)  # without growth, as before


def test_an_interrupt_is_no_failure(neighbours: Neighbours, tmp_path: Path) -> None:
    loop = Loop.of("features")

    def train() -> None:
        with loop.attached(neighbours, tmp_path, options=OPTIONS) as growth:
            loop.run(1, growth)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert the_end(neighbours).termination == TERMINATION_CANCELLED


def test_a_loop_that_ends_before_the_horizon_ends_the_episode_once(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    follow(neighbours, BLENDS)
    loop = Loop.of("features")
    growth = loop.attached(neighbours, tmp_path, options=OPTIONS)
    loop.run(3, growth)
    assert seeds(growth) == ["slot-0"]
    growth.end()
    growth.end()
    end = the_end(neighbours)
    assert (end.termination, end.steps) == (TERMINATION_CANCELLED, 3)
    assert end.message == "the training loop ended after 3 intervals"
    assert sent(neighbours) == 4
    assert seeds(growth) == []
    assert growth.last_move is None


def test_the_end_after_the_horizon_ends_nothing_again(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    loop = Loop.of("features")
    with loop.attached(neighbours, tmp_path, horizon=2, options=OPTIONS) as growth:
        loop.run(2, growth)
        growth.end()
    assert the_end(neighbours).termination == TERMINATION_HORIZON
    assert sent(neighbours) == 3


def test_an_interrupt_while_the_last_interval_is_sent_leaves_it_at_the_horizon(
    neighbours: Neighbours, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = Loop.of("features")
    growth = loop.attached(neighbours, tmp_path, horizon=1, options=OPTIONS)
    with monkeypatch.context() as patch:
        patch.setattr(growth._connection, "send", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            loop.run(1, growth)
    growth.end()
    assert the_end(neighbours).termination == TERMINATION_HORIZON
    assert sent(neighbours) == 2


def call_step(growth: Growth) -> None:
    growth.step(batches()[1])


def call_interval(growth: Growth) -> None:
    growth.interval(train_loss=1.0, val_loss=1.0, val_accuracy=0.5)


def call_load(growth: Growth) -> None:
    growth.load_state_dict(growth.state_dict())


def test_what_is_called_too_late_is_told_so(neighbours: Neighbours, tmp_path: Path) -> None:
    loop = Loop.of("features")
    growth = loop.attached(neighbours, tmp_path, horizon=1, options=OPTIONS)
    loop.run(1, growth)
    for call in (call_step, call_interval):
        with pytest.raises(ValueError, match="after the horizon: the episode has had its 1 inter"):
            call(growth)
    growth.end()
    for call in (call_step, call_interval, call_load):
        with pytest.raises(ValueError, match=r"\(\) after end\(\)"):
            call(growth)


def test_a_batch_that_is_left_out_or_fails_disturbs_neither_loop_nor_seeds(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    follow(neighbours, BLENDS)
    ends = []
    for troubled in (False, True):
        loop = Loop.of("features")
        for part in loop.model.modules():  # a pass that is left out would leave its traces there
            if isinstance(part, nn.Dropout):
                part.p = 0.0
            if isinstance(part, nn.BatchNorm1d):
                part.momentum = 0.0
        with loop.attached(
            neighbours, tmp_path / str(troubled), run_id=f"r{troubled}", options=OPTIONS
        ) as growth:
            for _ in range(4):
                if troubled:
                    images, _ = batches()
                    loop.model.train()
                    loop.model(images)  # a loss that is not finite, say
                    with pytest.raises(RuntimeError):
                        loop.model(images[:, :2])
                loop.run(1, growth)
            learnt = {name: weights.clone() for name, weights in loop.model.named_parameters()}
            for name, weights in growth.network.seeds.named_parameters():
                learnt[f"seeds.{name}"] = weights.clone()
            ends.append(learnt)
    assert_same(*ends)


def test_a_step_that_the_scaler_skips_is_none_of_the_seeds_and_an_interval_of_them_is_possible(
    neighbours: Neighbours, tmp_path: Path
) -> None:
    follow(neighbours, BLENDS)
    loop = Loop.of("features")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126, growth_interval=1000)
    images, labels = batches()
    with loop.attached(neighbours, tmp_path, options=OPTIONS) as growth:
        scales = [scaler.get_scale()]
        for _ in range(5):
            loop.model.train()
            loop.optimizer.zero_grad()
            scaler.scale(100.0 * loop.loss(loop.model(images), labels)).backward()
            growth.step(labels, scaler)
            scaler.step(loop.optimizer)
            scaler.update()
            scales.append(scaler.get_scale())
            growth.interval(train_loss=1.0, val_loss=1.0, val_accuracy=0.5)
        skipped = sum(after < before for before, after in itertools.pairwise(scales))
        assert skipped >= 1
        steps = [query.snapshot.global_step for query in neighbours.policy.asked]
        assert steps[-1] == 5 - skipped
