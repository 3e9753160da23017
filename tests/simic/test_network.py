from __future__ import annotations

import hashlib

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from leyline.observation import SEED_SPEC
from leyline.v1.registry_pb2 import TrainingSummary
from simic.learning import checkpoint
from simic.learning.network import WAIT, MlpNetwork
from simic.learning.version import learned_version
from simic.policies.artifact import check_manifest, mlp_model, read_weights, to_bytes, version_name

SLOTS = 3


def trained_like(seed: int = 5) -> MlpNetwork:
    """A network whose logits are as far apart as training makes them."""
    network = MlpNetwork(48, SLOTS, seed)
    generator = torch.Generator().manual_seed(seed)
    network.take_statistics(torch.rand(64, 48, generator=generator))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def observations(rows: int = 16) -> Tensor:
    return torch.randn(rows, 48, generator=torch.Generator().manual_seed(1))


def decisions() -> list[tuple[int, int]]:
    """Every decision that there is, as (type, slot)."""
    return [(WAIT, -1), *((action, slot) for action in (1, 2, 3) for slot in range(SLOTS))]


def test_an_initial_policy_is_all_but_uniform() -> None:
    distribution = MlpNetwork(48, SLOTS).distribution(observations())
    of_type, of_slot = distribution.type_log_probs.exp(), distribution.slot_log_probs.exp()
    assert of_type.detach().numpy() == pytest.approx(1 / 4, abs=0.02)
    assert of_slot.detach().numpy() == pytest.approx(1 / 3, abs=0.02)


def test_the_probabilities_of_all_decisions_add_up_to_one() -> None:
    distribution = trained_like().distribution(observations())
    total = torch.zeros(16)
    for action, slot in decisions():
        total += distribution.log_prob(torch.full((16,), action), torch.full((16,), slot)).exp()
    assert total.detach().numpy() == pytest.approx(1, abs=1e-5)


def test_a_wait_has_no_slot_in_its_log_probability() -> None:
    distribution = trained_like().distribution(observations())
    waits = distribution.log_prob(torch.full((16,), WAIT), torch.full((16,), -1))
    assert torch.equal(waits, distribution.type_log_probs[:, WAIT])


def test_entropy_and_divergence_are_those_of_whole_decisions() -> None:
    here, there = (trained_like(seed).distribution(observations()) for seed in (5, 6))
    entropy, divergence = torch.zeros(16), torch.zeros(16)
    for action, slot in decisions():
        chosen = torch.full((16,), action), torch.full((16,), slot)
        log_here, log_there = here.log_prob(*chosen), there.log_prob(*chosen)
        entropy -= log_here.exp() * log_here
        divergence += log_there.exp() * (log_there - log_here)
    assert here.entropy().detach().numpy() == pytest.approx(entropy.detach().numpy(), abs=1e-5)
    found = here.divergence_from(there).detach().numpy()
    assert found == pytest.approx(divergence.detach().numpy(), abs=1e-5)


def test_the_artifact_computes_what_the_network_computes() -> None:
    network = trained_like()
    artifact = to_bytes(mlp_model(network.weights()))
    session = onnxruntime.InferenceSession(artifact, providers=["CPUExecutionProvider"])
    for rows in (1, 16):
        batch = observations(rows)
        expected = network(batch)
        found = session.run(["type_logits", "slot_logits", "value"], {"observation": batch.numpy()})
        for mine, theirs in zip(expected, found, strict=True):
            assert theirs.shape == mine.shape
            assert theirs == pytest.approx(mine.detach().numpy(), abs=1e-5)


def test_golden_outputs_hold_in_onnxruntime_and_pass_the_registry() -> None:
    version = learned_version(trained_like(), SEED_SPEC, "", TrainingSummary(), b"")
    check_manifest(version.manifest, version.artifact)
    session = onnxruntime.InferenceSession(version.artifact, providers=["CPUExecutionProvider"])
    for golden in version.manifest.golden_outputs:
        observation = np.array([golden.observation], np.float32)
        types, slots, value = session.run(None, {"observation": observation})
        assert types[0] == pytest.approx(list(golden.type_logits), abs=1e-5)
        assert slots[0].flatten() == pytest.approx(list(golden.slot_logits), abs=1e-5)
        assert value[0] == pytest.approx(golden.value, abs=1e-5)


def test_the_same_weights_make_the_same_bytes_and_others_another_name() -> None:
    names, digests = set(), set()
    for seed in (1, 1, 2):
        model = mlp_model(MlpNetwork(48, SLOTS, seed).weights())
        names.add(version_name("mlp", model))
        digests.add(hashlib.sha256(to_bytes(model)).hexdigest())
    assert len(names) == len(digests) == 2


def test_a_network_comes_back_out_of_its_artifact() -> None:
    network = trained_like()
    found = MlpNetwork.from_weights(read_weights(to_bytes(mlp_model(network.weights()))))
    assert found.is_normalised
    for mine, theirs in zip(network(observations()), found(observations()), strict=True):
        assert torch.equal(mine, theirs)


def test_training_goes_on_from_a_checkpoint_as_if_it_had_not_stopped() -> None:
    def step(network: MlpNetwork, optimizer: torch.optim.Adam) -> None:
        optimizer.zero_grad()
        network.values(observations()).square().mean().backward()
        optimizer.step()

    network = MlpNetwork(48, SLOTS, 1)
    optimizer = torch.optim.Adam(network.parameters(), foreach=False)
    step(network, optimizer)
    data = checkpoint.to_bytes(network, optimizer)
    resumed = MlpNetwork(48, SLOTS, 2)
    resumed_optimizer = torch.optim.Adam(resumed.parameters(), foreach=False)
    checkpoint.restore(data, resumed, resumed_optimizer)
    for each in ((network, optimizer), (resumed, resumed_optimizer)):
        step(*each)
    assert checkpoint.to_bytes(network, optimizer) == checkpoint.to_bytes(
        resumed, resumed_optimizer
    )
