from __future__ import annotations

import hashlib
import math

import numpy as np
import onnxruntime
import pytest
import torch
from tests.simic.worlds import LAYOUT, NETWORKS, SLOTS, network

from leyline.observation import EXTENDED_SPEC, SEED_SPEC
from leyline.v1.registry_pb2 import TrainingSummary
from simic.learning import checkpoint
from simic.learning.distribution import WAIT
from simic.learning.mlp import MlpNetwork
from simic.learning.network import Layout, PolicyNetwork
from simic.learning.slot_shared import INITIAL_CULL, SlotSharedNetwork
from simic.learning.version import GOLDEN_SLOTS, learned_version
from simic.policies.artifact import MODELS, check_manifest, read_weights, to_bytes, version_name

pytestmark = pytest.mark.parametrize("name", NETWORKS)


def trained_like(name: str, seed: int = 5) -> PolicyNetwork:
    """A network whose logits are as far apart as training makes them."""
    return _trained(network(name, seed), seed)


def _trained(fresh: PolicyNetwork, seed: int) -> PolicyNetwork:
    generator = torch.Generator().manual_seed(seed)
    seen = torch.rand(64, fresh.layout.length(SLOTS), generator=generator)
    fresh.take_statistics(seen, torch.full((64,), SLOTS))
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return fresh


def observations(rows: int = 16, slots: int = SLOTS) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, LAYOUT.length(slots), generator=generator)


def decisions() -> list[tuple[int, int]]:
    """Every decision that there is, as (type, slot)."""
    return [(WAIT, -1), *((action, slot) for action in (1, 2, 3) for slot in range(SLOTS))]


def test_an_initial_policy_hardly_depends_on_what_it_sees(name: str) -> None:
    distribution = network(name).distribution(observations())
    of_type = distribution.type_log_probs.exp().detach().numpy()
    of_slot = distribution.slot_log_probs.exp().detach().numpy()
    # The seed's is uniform over the types. The other's is so over WAIT and every pair of type and
    # slot, but that nothing is known yet to be carried out, and that it culls more rarely.
    rare = math.exp(INITIAL_CULL)
    odds = np.ones(4) if name == "mlp" else np.array([1, 1.5, 1.5, 1.5 * rare])
    assert of_type == pytest.approx(np.tile(odds / odds.sum(), (16, 1)), abs=0.02)
    assert of_slot == pytest.approx(1 / 3, abs=0.02)


def test_the_probabilities_of_all_decisions_add_up_to_one(name: str) -> None:
    distribution = trained_like(name).distribution(observations())
    total = torch.zeros(16)
    for action, slot in decisions():
        total += distribution.log_prob(torch.full((16,), action), torch.full((16,), slot)).exp()
    assert total.detach().numpy() == pytest.approx(1, abs=1e-5)


def test_a_wait_has_no_slot_in_its_log_probability(name: str) -> None:
    distribution = trained_like(name).distribution(observations())
    waits = distribution.log_prob(torch.full((16,), WAIT), torch.full((16,), -1))
    assert torch.equal(waits, distribution.type_log_probs[:, WAIT])


def test_the_action_logits_are_the_distribution_over_whole_decisions(name: str) -> None:
    policy = trained_like(name)
    distribution = policy.distribution(observations())
    found = torch.log_softmax(policy.action_logits(observations()), -1)
    for place, (action, slot) in enumerate(decisions()):
        chosen = torch.full((16,), action), torch.full((16,), slot)
        assert torch.allclose(found[:, place], distribution.log_prob(*chosen), atol=1e-5)


def test_entropy_and_divergence_are_those_of_whole_decisions(name: str) -> None:
    here, there = (trained_like(name, seed).distribution(observations()) for seed in (5, 6))
    entropy, divergence = torch.zeros(16), torch.zeros(16)
    for action, slot in decisions():
        chosen = torch.full((16,), action), torch.full((16,), slot)
        log_here, log_there = here.log_prob(*chosen), there.log_prob(*chosen)
        entropy -= log_here.exp() * log_here
        divergence += log_there.exp() * (log_there - log_here)
    assert here.entropy().detach().numpy() == pytest.approx(entropy.detach().numpy(), abs=1e-5)
    found = here.divergence_from(there).detach().numpy()
    assert found == pytest.approx(divergence.detach().numpy(), abs=1e-5)


def test_the_artifact_computes_what_the_network_computes(name: str) -> None:
    policy = trained_like(name)
    artifact = to_bytes(MODELS[name](policy.weights()))
    session = onnxruntime.InferenceSession(artifact, providers=["CPUExecutionProvider"])
    for rows in (1, 16):
        batch = observations(rows)
        expected = policy(batch)
        found = session.run(["type_logits", "slot_logits", "value"], {"observation": batch.numpy()})
        for mine, theirs in zip(expected, found, strict=True):
            assert theirs.shape == mine.shape
            assert theirs == pytest.approx(mine.detach().numpy(), abs=1e-5)


def test_golden_outputs_hold_in_onnxruntime_and_pass_the_registry(name: str) -> None:
    layout = Layout.of(SEED_SPEC)
    fresh = MlpNetwork(layout, SLOTS) if name == "mlp" else SlotSharedNetwork(layout)
    version = learned_version(_trained(fresh, 5), SEED_SPEC, "", TrainingSummary(), b"")
    check_manifest(version.manifest, version.artifact)
    session = onnxruntime.InferenceSession(version.artifact, providers=["CPUExecutionProvider"])
    lengths = set()
    for golden in version.manifest.golden_outputs:
        observation = np.array([golden.observation], np.float32)
        types, slots, value = session.run(None, {"observation": observation})
        assert types[0] == pytest.approx(list(golden.type_logits), abs=1e-5)
        assert slots[0].flatten() == pytest.approx(list(golden.slot_logits), abs=1e-5)
        assert value[0] == pytest.approx(golden.value, abs=1e-5)
        lengths.add(len(golden.observation))
    answered = {SLOTS} if name == "mlp" else set(GOLDEN_SLOTS)
    assert lengths == {layout.length(slots) for slots in answered}


def test_the_same_weights_make_the_same_bytes_and_others_another_name(name: str) -> None:
    names, digests = set(), set()
    for seed in (1, 1, 2):
        model = MODELS[name](network(name, seed).weights())
        names.add(version_name(name, model))
        digests.add(hashlib.sha256(to_bytes(model)).hexdigest())
    assert len(names) == len(digests) == 2


def test_a_network_comes_back_out_of_its_artifact(name: str) -> None:
    policy = trained_like(name)
    artifact = to_bytes(MODELS[name](policy.weights()))
    found = network(name).load_weights(read_weights(artifact))
    assert found.is_normalised
    for mine, theirs in zip(policy(observations()), found(observations()), strict=True):
        assert torch.equal(mine, theirs)


def test_a_masked_feature_is_not_seen(name: str) -> None:
    layout = Layout.of(EXTENDED_SPEC, ["val_accuracy", "gradmax_norm"])
    fresh = MlpNetwork(layout, SLOTS) if name == "mlp" else SlotSharedNetwork(layout)
    policy = _trained(fresh, 3)
    names = [feature.name for feature in EXTENDED_SPEC.global_features]
    of_slot = [feature.name for feature in EXTENDED_SPEC.slot_features]
    seen = torch.rand(4, layout.length(SLOTS))
    other = seen.clone()
    other[:, names.index("val_accuracy")] += 1
    for slot in range(SLOTS):
        other[:, layout.length(slot) + of_slot.index("gradmax_norm")] -= 1
    for mine, theirs in zip(policy(seen), policy(other), strict=True):
        assert torch.equal(mine, theirs)
    other[:, names.index("val_loss")] += 1
    assert not torch.equal(policy(seen)[0], policy(other)[0])


def test_training_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(name: str) -> None:
    def step(policy: PolicyNetwork, optimizer: torch.optim.Adam) -> None:
        optimizer.zero_grad()
        policy.values(observations()).square().mean().backward()
        optimizer.step()

    def of(seed: int) -> tuple[PolicyNetwork, torch.optim.Adam]:
        fresh = network(name, seed)
        return fresh, torch.optim.Adam(fresh.value.parameters(), foreach=False)

    policy, optimizer = of(1)
    step(policy, optimizer)
    data = checkpoint.to_bytes(policy, {"value": optimizer})
    resumed, resumed_optimizer = of(2)
    checkpoint.restore(data, resumed, {"value": resumed_optimizer})
    states = []
    for each in ((policy, optimizer), (resumed, resumed_optimizer)):
        step(*each)
        states.append(checkpoint.to_bytes(each[0], {"value": each[1]}))
    assert states[0] == states[1]
