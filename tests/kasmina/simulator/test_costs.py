"""Costs are counted as those of a real network; see `kasmina.network.cost`."""

from __future__ import annotations

import pytest
from tests.kasmina.simulator.episodes import WAIT, family, growing, played

from kasmina.network.slot import Action
from kasmina.simulator.policies import Choice
from kasmina.simulator.trainer import SimulatedTrainer
from kasmina.training.interval import IntervalFacts

HOST, SEED = 3_000_000, 150_000
TRAINING, VALIDATION = 78 * 128, 5000
FAMILY = family(seeds={"choice": "fixed", "candidates": ["conv1x1"], "bad_share": 0.0})


def facts_after(choices: list[Choice]) -> tuple[SimulatedTrainer, list[IntervalFacts]]:
    trainer = played(FAMILY)
    facts = []
    for choice in choices:
        trainer.apply(*choice)
        facts.append(trainer.train_interval())
    return trainer, facts


def test_waiting_costs_three_passes_an_image_and_a_validation_an_interval() -> None:
    _, (*_, last) = facts_after([WAIT] * 4)
    assert (last.parameters, last.multiply_adds) == (30_000, HOST)
    assert last.multiply_adds_spent == 4 * (3 * TRAINING + VALIDATION) * HOST
    assert last.multiply_adds_bare == (3 * TRAINING + VALIDATION) * HOST


@pytest.mark.parametrize(("depth", "downstream"), [(0, 2 / 3), (1, 1 / 3), (2, 0)])
def test_a_seed_that_learns_apart_costs_its_own_passes_and_what_lies_downstream(
    depth: int, downstream: float
) -> None:
    slot_id = f"slot-{depth}"
    _, facts = facts_after([(Action.GERMINATE, slot_id), (Action.ADVANCE, slot_id)])
    a_step = 3 * HOST + 3 * SEED + 2 * round(HOST * downstream)
    spent = facts[1].multiply_adds_spent - facts[0].multiply_adds_spent
    assert spent == TRAINING * a_step + VALIDATION * HOST
    assert facts[1].multiply_adds == HOST


def test_a_live_seed_belongs_to_the_network() -> None:
    trainer, facts = facts_after(growing("slot-2"))
    grown = HOST + SEED
    assert facts[-1].parameters == 30_000 + 8_100
    assert facts[-1].multiply_adds == grown
    spent = facts[-1].multiply_adds_spent - facts[-2].multiply_adds_spent
    assert spent == (3 * TRAINING + VALIDATION) * grown
    snapshot = trainer.snapshot()
    assert snapshot.size_ratio == pytest.approx(1.27)
    assert snapshot.slots[-1].seed_cost == pytest.approx(0.27)
