"""Signs tell of what is hidden, and of nothing that was not measured."""

from __future__ import annotations

import math
import statistics

import pytest
from tests.kasmina.simulator.episodes import (
    SILENT,
    WAIT,
    advance,
    family,
    growing,
    last_slot,
    played,
    seeds_where,
    with_situation,
)

from kasmina.network.slot import Action, NoOpReason, Stage
from kasmina.simulator.parameters import Parameters, load_family
from kasmina.simulator.policies import Choice
from kasmina.simulator.situation import SimulationSeeds, Situation
from kasmina.simulator.trainer import SimulatedTrainer
from kasmina.training.telemetry import BOUND

BLUEPRINT = "conv1x1"
FIXED = {"choice": "fixed", "candidates": [BLUEPRINT]}
NOISY, QUIET = family(seeds=FIXED), family(seeds=FIXED, noise=SILENT)


def after(choices: list[Choice], bad: bool, diverges: bool = False) -> SimulatedTrainer:
    """A quiet episode after actions at the deepest slot, whose seed is of that kind."""
    seeds = with_situation(seeds_where(QUIET, BLUEPRINT, bad, diverges))
    return played(QUIET, choices, seeds)


@pytest.mark.parametrize("parameters", [load_family("default"), load_family("held-out")])
def test_validations_are_the_truth_with_noise_of_the_size_that_the_family_says(
    parameters: Parameters,
) -> None:
    errors = []
    for index in range(40):
        trainer = SimulatedTrainer(parameters, SimulationSeeds.of_episode(1, index))
        while not trainer.finished:
            facts = trainer.train_interval()
            errors.append(facts.val_accuracy - trainer.true_accuracy)
    assert statistics.fmean(errors) == pytest.approx(0.0, abs=1e-3)
    assert statistics.stdev(errors) == pytest.approx(parameters.noise.accuracy, rel=0.1)


def test_without_noise_validation_is_the_truth_and_the_loss_falls_as_accuracy_rises() -> None:
    trainer = SimulatedTrainer(QUIET, SimulationSeeds.of_episode(1, 0))
    assert trainer.snapshot().val_loss == pytest.approx(math.log(100) * 0.99**1.35)
    losses = []
    while not trainer.finished:
        facts = trainer.train_interval()
        assert facts.val_accuracy == trainer.true_accuracy
        assert facts.train_loss < facts.val_loss
        losses.append(facts.val_loss)
    assert losses == sorted(losses, reverse=True)
    assert trainer.snapshot().generalization_gap == pytest.approx(0.3)


def test_noise_belongs_to_its_interval_whatever_was_done_before() -> None:
    grown, waited = (played(NOISY, choices) for choices in ([*growing("slot-1")], [WAIT] * 6))
    assert grown.true_accuracy != waited.true_accuracy
    difference = grown.snapshot().val_accuracy - waited.snapshot().val_accuracy
    assert difference == pytest.approx(grown.true_accuracy - waited.true_accuracy)
    for slot, other in zip(grown.snapshot().slots, waited.snapshot().slots, strict=True):
        if slot.slot_id != "slot-1":
            assert slot == other


def test_an_ablation_tells_a_good_seed_from_a_bad_one() -> None:
    good, bad = (last_slot(after(growing("slot-2"), kind)) for kind in (False, True))
    assert good.ablation_delta is not None
    assert bad.ablation_delta is not None
    assert bad.ablation_delta < -0.05 < 0.05 < good.ablation_delta


def test_a_live_bad_seed_shows_in_gradients_and_activations() -> None:
    good, bad = (last_slot(after(growing("slot-2"), kind)) for kind in (False, True))
    assert good.gradient_norm is not None
    assert bad.gradient_norm is not None
    assert bad.gradient_norm > 1.5 * good.gradient_norm
    assert good.activation_sparsity is not None
    assert bad.activation_sparsity is not None
    assert bad.activation_sparsity > good.activation_sparsity + 0.1


def test_a_seed_that_learns_apart_does_not_show_in_the_host() -> None:
    training = [(Action.GERMINATE, "slot-2"), (Action.ADVANCE, "slot-2"), WAIT]
    for bad in (False, True):
        learning, waiting = (last_slot(after(c, bad)) for c in (training, [WAIT] * 3))
        assert learning.stage is Stage.TRAINING
        assert learning.gradient_norm == waiting.gradient_norm
        assert learning.activation_sparsity == waiting.activation_sparsity
        assert learning.gradmax_norm == waiting.gradmax_norm


def test_gradmax_tells_good_seeds_from_bad_ones_mostly_but_not_always() -> None:
    norms: dict[bool, list[float]] = {False: [], True: []}
    for index in range(200):
        seeds = SimulationSeeds.of_episode(2, index)
        hidden = Situation.draw(NOISY, seeds.situation).slots
        for slot, truth in zip(played(NOISY, [WAIT], seeds).snapshot().slots, hidden, strict=True):
            assert slot.gradmax_norm is not None
            norms[truth.seeds[BLUEPRINT].is_bad].append(slot.gradmax_norm)
    right = statistics.fmean(good > bad for good in norms[False] for bad in norms[True])
    assert 0.9 < right < 1.0


def test_gradients_fade_as_the_host_learns() -> None:
    trainer = played(QUIET, [WAIT])
    early = last_slot(trainer).gradient_norm
    advance(trainer, [WAIT] * 15)
    late = last_slot(trainer).gradient_norm
    assert early is not None
    assert late == pytest.approx(early / math.e)


def test_a_diverging_seed_shows_in_its_output_and_is_not_let_in() -> None:
    trainer = after([(Action.GERMINATE, "slot-2")], bad=True, diverges=True)
    assert last_slot(trainer).output_ratio is None
    advance(trainer, [(Action.ADVANCE, "slot-2")])
    assert last_slot(trainer).output_ratio == BOUND
    outcome = trainer.apply(Action.ADVANCE, "slot-2")
    assert outcome.no_op_reason is NoOpReason.SEED_NOT_FINITE
    assert last_slot(trainer).stage is Stage.TRAINING
    assert trainer.apply(Action.CULL, "slot-2").executed
