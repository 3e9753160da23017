from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from kasmina.data.images import Dataset, ImageSplit
from kasmina.network.host import StagedHost
from kasmina.network.slot import Action, Stage
from kasmina.training.augmentation import normalise
from kasmina.training.configuration import EpisodeSeeds, TrainerConfig
from kasmina.training.grower import Grower
from kasmina.training.interval import IntervalTrainer, ablation_split
from kasmina.training.telemetry import BOUND, VitalSigns, bounded
from kasmina.training.trainer import GrowthTrainer

CONFIG = TrainerConfig(
    seeds=EpisodeSeeds.of(3),
    horizon=12,
    channels=(4, 6, 8),
    batch_size=16,
    interval_batches=3,
    blend_intervals=2,
    threads=1,
)


def test_before_the_first_interval_nothing_is_claimed_that_was_not_measured(
    stripes: Dataset,
) -> None:
    snapshot = GrowthTrainer(CONFIG, stripes).snapshot()
    assert (snapshot.epoch, snapshot.global_step, snapshot.train_loss) == (0, 0, None)
    assert snapshot.generalization_gap is None
    assert (snapshot.time_left, snapshot.size_ratio, snapshot.plateau_epochs) == (1.0, 1.0, 0)
    assert snapshot.loss_history == (snapshot.val_loss,)
    assert snapshot.accuracy_history == (snapshot.val_accuracy,)
    for slot in snapshot.slots:
        assert slot.gradient_norm is None
        assert slot.activation_sparsity is None
        assert slot.seed_improvement is None
        assert slot.output_ratio is None
        assert slot.gradmax_norm is None
        assert slot.ablation_delta is None


def test_slots_are_reported_in_order_of_depth(stripes: Dataset) -> None:
    slots = GrowthTrainer(CONFIG, stripes).snapshot().slots
    assert [(slot.slot_id, slot.depth) for slot in slots] == [
        ("slot-0", 0),
        ("slot-1", 1),
        ("slot-2", 2),
    ]


def test_gradient_norm_and_sparsity_are_those_of_the_sampled_batch(stripes: Dataset) -> None:
    config = replace(CONFIG, interval_batches=1)
    trainer = GrowthTrainer(config, replace(stripes, augmented=False))
    order = GrowthTrainer(config, stripes)._trainer.order.next_batch()
    host = GrowthTrainer(config, stripes).network.train().host
    assert isinstance(host, StagedHost)
    images = normalise(stripes.train.images[order], stripes.mean, stripes.deviation)
    h, sparsities = images, []
    for stage in host.stages:
        h = stage(h)
        sparsities.append(float((h == 0).double().mean()))
    functional.cross_entropy(host.head(h), stripes.train.labels[order]).backward()
    trainer.train_interval()
    slots = trainer.snapshot().slots
    for slot, stage, sparsity in zip(slots, host.stages, sparsities, strict=True):
        gradient = torch.cat([p.grad.flatten() for p in stage.parameters() if p.grad is not None])
        expected = float(gradient.double().square().mean().sqrt())
        assert slot.gradient_norm == pytest.approx(expected, rel=1e-4)
        assert slot.activation_sparsity == pytest.approx(sparsity, abs=1e-6)


def test_the_gradient_norm_is_measured_before_clipping(stripes: Dataset) -> None:
    clipped = GrowthTrainer(replace(CONFIG, interval_batches=1, clip_norm=1e-6), stripes)
    free = GrowthTrainer(replace(CONFIG, interval_batches=1), stripes)
    for trainer in (clipped, free):
        trainer.train_interval()
    assert clipped.snapshot().slots[0].gradient_norm == free.snapshot().slots[0].gradient_norm


def test_every_kth_batch_is_sampled(stripes: Dataset) -> None:
    config = replace(CONFIG, interval_batches=5)
    last = GrowthTrainer(replace(config, telemetry_every=5), stripes)
    all_of_them = GrowthTrainer(replace(config, telemetry_every=1), stripes)
    for trainer in (last, all_of_them):
        trainer.train_interval()
    sampled, full = last.snapshot().slots[0], all_of_them.snapshot().slots[0]
    assert sampled.gradient_norm != full.gradient_norm
    assert replace(last.snapshot(), slots=()) == replace(all_of_them.snapshot(), slots=())


def test_a_seeds_readings_follow_its_life(stripes: Dataset) -> None:
    trainer = GrowthTrainer(CONFIG, stripes)
    trainer.train_interval()
    germinated_at = trainer.snapshot().val_accuracy
    alphas, improvements, ratios = [], [], []
    for action in (Action.GERMINATE, Action.ADVANCE, Action.ADVANCE, Action.WAIT, Action.ADVANCE):
        trainer.apply(action, None if action is Action.WAIT else "slot-1")
        trainer.train_interval()
        snapshot = trainer.snapshot()
        slot = snapshot.slots[1]
        alphas.append(slot.alpha)
        ratios.append(slot.output_ratio)
        assert slot.seed_improvement is not None
        improvements.append((slot.seed_improvement, snapshot.val_accuracy - germinated_at))
        assert slot.has_seed
        assert slot.blueprint == "conv3x3"
    assert alphas == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert all(claimed == pytest.approx(measured) for claimed, measured in improvements)
    assert ratios[0] is None
    assert all(ratio is not None and 0 < ratio < 10 for ratio in ratios[1:])
    assert trainer.snapshot().slots[1].epochs_in_stage == 1
    assert trainer.snapshot().slots[0].epochs_in_stage == 6


def test_gradmax_is_measured_where_no_seed_is_live_and_says_nothing_of_duds(
    stripes: Dataset,
) -> None:
    def norms(config: TrainerConfig) -> list[list[float | None]]:
        trainer = GrowthTrainer(config, stripes)
        seen = []
        for action in (Action.WAIT, Action.GERMINATE, Action.ADVANCE, Action.ADVANCE):
            trainer.apply(action, "slot-1")
            trainer.train_interval()
            seen.append([slot.gradmax_norm for slot in trainer.snapshot().slots])
        return seen

    seen = norms(CONFIG)
    assert all(norm is not None and 0 < norm < 100 for row in seen[:3] for norm in row)
    assert [norm is None for norm in seen[3]] == [False, True, False]
    assert norms(replace(CONFIG, duds=("conv3x3",)))[:2] == seen[:2]


def test_a_seeds_ablation_is_the_loss_without_it_minus_the_loss_with_it(stripes: Dataset) -> None:
    trainer = GrowthTrainer(CONFIG, stripes)
    for action in (Action.GERMINATE, Action.ADVANCE, Action.ADVANCE):
        trainer.apply(action, "slot-1")
        assert trainer.snapshot().slots[1].ablation_delta is None
        trainer.train_interval()
    first, second, third = trainer.snapshot().slots
    assert (first.ablation_delta, third.ablation_delta) == (None, None)
    images = normalise(stripes.validation.images, stripes.mean, stripes.deviation)
    network = trainer.network.eval()
    with torch.no_grad():
        whole = functional.cross_entropy(network(images), stripes.validation.labels)
        bare = functional.cross_entropy(network.host(images), stripes.validation.labels)
    assert second.ablation_delta == pytest.approx(float(bare - whole), rel=1e-4)
    assert second.ablation_delta != 0.0


def test_ablations_are_over_a_thousand_images_at_most_from_the_whole_split() -> None:
    for count in (1, 999, 1000, 1001, 5000):
        images = torch.arange(count, dtype=torch.float32).view(-1, 1, 1, 1)
        part = ablation_split(ImageSplit(images, torch.arange(count)))
        assert len(part) == len(part.images) == min(count, len(part)) <= 1000
        assert len(part) > min(count, 1000) // 2
        assert int(part.labels[-1]) > 0.99 * (count - 1) - 5


def test_what_is_measured_beside_training_leaves_no_trace(
    stripes: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def played() -> tuple[list[object], dict[str, torch.Tensor], list[torch.Tensor]]:
        trainer = GrowthTrainer(replace(CONFIG, planted={"slot-0": "conv1x1"}), stripes)
        facts = [trainer.train_interval() for _ in range(3)]
        curve: list[object] = [(fact.train_loss, fact.val_loss) for fact in facts]
        return curve, dict(trainer.network.state_dict()), trainer.random_states()

    measured = played()
    monkeypatch.setattr(Grower, "fresh_seeds", lambda self: {})
    monkeypatch.setattr(IntervalTrainer, "ablations", lambda self, split: {})
    bare = played()
    assert measured[0] == bare[0]
    assert all(torch.equal(measured[1][name], bare[1][name]) for name in bare[1])
    assert all(map(torch.equal, measured[2], bare[2]))


def test_cost_and_size_are_relative_to_the_bare_host(stripes: Dataset) -> None:
    trainer = GrowthTrainer(CONFIG, stripes)
    host = trainer.parameter_count()
    for _ in range(3):
        action = Action.GERMINATE if not trainer.snapshot().slots[1].has_seed else Action.ADVANCE
        assert trainer.snapshot().size_ratio == 1.0
        trainer.apply(action, "slot-1")
    cost = trainer.snapshot().slots[1].seed_cost
    assert trainer.snapshot().size_ratio == pytest.approx(1.0 + cost)
    assert cost == (9 * 36 + 12 + 9 * 36 + 6) / host


def test_a_plateau_counts_intervals_until_the_best_is_beaten_by_a_tenth_of_a_point() -> None:
    signs = VitalSigns.of_untrained(4.6, 0.010)
    plateaus = []
    for accuracy in (0.100, 0.1009, 0.1015, 0.09, 0.1015, 0.2):
        signs = signs.after_interval(4.0, 4.0, accuracy)
        plateaus.append(signs.plateau)
    assert plateaus == [0, 1, 0, 1, 2, 0]
    assert signs.best_accuracy == 0.2


def test_small_gains_add_up_to_the_end_of_a_plateau() -> None:
    signs = VitalSigns.of_untrained(4.6, 0.1)
    plateaus = []
    for step in range(1, 5):
        signs = signs.after_interval(4.0, 4.0, 0.1 + 0.0006 * step)
        plateaus.append(signs.plateau)
    assert plateaus == [1, 0, 1, 0]


def test_histories_keep_the_last_five_validations_oldest_first() -> None:
    signs = VitalSigns.of_untrained(9.0, 0.0)
    for step in range(1, 8):
        signs = signs.after_interval(5.0, 9.0 - step, step / 10)
    assert signs.losses == (6.0, 5.0, 4.0, 3.0, 2.0)
    assert signs.accuracies == (0.3, 0.4, 0.5, 0.6, 0.7)
    assert (signs.best_loss, signs.best_accuracy) == (2.0, 0.7)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 2e6])
def test_what_is_not_finite_is_reported_as_the_worst_that_can_be_said(value: float) -> None:
    assert bounded(value) == BOUND


def test_a_host_that_has_diverged_is_reported_and_goes_on(stripes: Dataset) -> None:
    trainer = GrowthTrainer(CONFIG, stripes)
    next(trainer.network.host.parameters()).data.fill_(float("nan"))
    facts = trainer.train_interval()
    snapshot = trainer.snapshot()
    assert (facts.train_loss, facts.val_loss) == (BOUND, BOUND)
    assert (snapshot.train_loss, snapshot.val_loss) == (BOUND, BOUND)
    assert snapshot.generalization_gap == 0.0
    assert [slot.gradient_norm for slot in snapshot.slots] == [BOUND] * 3
    assert 0.0 <= snapshot.val_accuracy <= 1.0
    for slot in snapshot.slots:
        assert slot.activation_sparsity is not None
        assert 0.0 <= slot.activation_sparsity <= 1.0
    trainer.train_interval()


def test_after_the_horizon_only_fossilised_seeds_are_left(stripes: Dataset) -> None:
    trainer = GrowthTrainer(replace(CONFIG, horizon=5), stripes)
    plan = [
        [(Action.GERMINATE, "slot-0"), (Action.ADVANCE, "slot-0"), (Action.ADVANCE, "slot-0")],
        [(Action.GERMINATE, "slot-1")],
        [(Action.ADVANCE, "slot-0"), (Action.GERMINATE, "slot-2"), (Action.ADVANCE, "slot-2")],
        [(Action.ADVANCE, "slot-2")],
        [],
    ]
    for actions in plan:
        for action, slot_id in actions:
            assert trainer.apply(action, slot_id).executed
        facts = trainer.train_interval()
    snapshot = trainer.snapshot()
    assert trainer.finished
    assert [slot.stage for slot in snapshot.slots] == [
        Stage.FOSSILIZED,
        Stage.DORMANT,
        Stage.DORMANT,
    ]
    assert snapshot.time_left == 0.0
    assert facts.val_accuracy == snapshot.val_accuracy == snapshot.accuracy_history[-1]
    left = trainer.evaluate(stripes.validation)
    assert (left.accuracy, left.correct) == (facts.val_accuracy, facts.validation_correct)
    assert facts.parameters == trainer.parameter_count()
