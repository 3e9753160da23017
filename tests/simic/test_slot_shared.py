from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.simic.worlds import LAYOUT

from simic.learning.batch import Steps
from simic.learning.descent import Descent
from simic.learning.distribution import WAIT
from simic.learning.recipes import PpoRecipe
from simic.learning.slot_shared import SlotSharedNetwork


def policy() -> SlotSharedNetwork:
    """A network that decides by what it sees."""
    network = SlotSharedNetwork(LAYOUT, 4)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network


@st.composite
def permuted(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """An observation, the same with its slots in another order, and that order."""
    slots = draw(st.integers(1, 12))
    order = draw(st.permutations(range(slots)))
    seed = draw(st.integers(0, 10_000))
    seen = torch.randn(LAYOUT.length(slots), generator=torch.Generator().manual_seed(seed))
    of_all, of_slots = seen[: LAYOUT.global_features], seen[LAYOUT.global_features :]
    moved = of_slots.reshape(slots, -1)[list(order)].flatten()
    return seen[None], torch.cat([of_all, moved])[None], list(order)


@settings(max_examples=50, deadline=None)
@given(permuted())
def test_permuting_the_slots_permutes_the_decision(
    drawn: tuple[torch.Tensor, torch.Tensor, list[int]],
) -> None:
    seen, moved, order = drawn
    network = policy()
    one, other = network.distribution(seen), network.distribution(moved)
    assert torch.allclose(one.type_log_probs, other.type_log_probs, atol=1e-5)
    assert torch.allclose(one.slot_log_probs[:, :, order], other.slot_log_probs, atol=1e-5)
    assert torch.allclose(network.values(seen), network.values(moved), atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=5))
def test_a_batch_of_several_numbers_of_slots_is_decided_as_each_alone(counts: list[int]) -> None:
    network = policy()
    most = max(counts)
    alone = [torch.randn(1, LAYOUT.length(count)) for count in counts]
    together = torch.cat(
        [torch.nn.functional.pad(each, (0, LAYOUT.length(most) - each.shape[1])) for each in alone]
    )
    slots = torch.tensor(counts)
    padded = network.distribution(together, slots)
    values = network.values(together, slots)
    for row, each in enumerate(alone):
        own = network.distribution(each)
        assert torch.allclose(own.type_log_probs[0], padded.type_log_probs[row], atol=1e-5)
        found = padded.slot_log_probs[row, WAIT + 1 :, : counts[row]]
        assert torch.allclose(own.slot_log_probs[0, WAIT + 1 :], found, atol=1e-5)
        assert torch.allclose(own.entropy()[0], padded.entropy()[row], atol=1e-5)
        assert torch.allclose(network.values(each)[0], values[row], atol=1e-5)


def test_wasted_turns_teach_which_actions_are_possible() -> None:
    """The first feature of a slot says whether a seed is in it: GERMINATE is a no-op then."""
    network = SlotSharedNetwork(LAYOUT, 4)
    generator = torch.Generator().manual_seed(0)
    rows, slots = 600, 3
    seen = torch.randn(rows, LAYOUT.length(slots), generator=generator)
    types = torch.randint(1, 4, (rows,), generator=generator)
    chosen = torch.randint(0, slots, (rows,), generator=generator)
    occupied = torch.stack([seen[:, LAYOUT.length(slot)] > 0 for slot in range(slots)], 1)
    at = occupied[torch.arange(rows), chosen]
    steps = Steps(
        observations=seen,
        slots_seen=torch.full((rows,), slots),
        action_types=types,
        slots=chosen,
        behaviour_log_probs=torch.zeros(rows),
        by_policy=torch.ones(rows, dtype=torch.bool),
        chosen=torch.ones(rows, dtype=torch.bool),
        no_ops=(types == 1) == at,
        lengths=[rows],
        rewards=[],
    )
    recipe = PpoRecipe(feasibility_steps=300, feasibility_learning_rate=1e-2)
    before = network.distribution(seen[:1]).type_log_probs
    Descent(network, recipe, 1).learn_feasibility(steps, generator)
    possible = network.feasibility(seen)[:, 1:].sigmoid() > 0.5
    assert (possible[:, 0] != occupied).float().mean() > 0.95
    assert (possible[:, 1] == occupied).float().mean() > 0.95
    assert not torch.equal(before, network.distribution(seen[:1]).type_log_probs)
