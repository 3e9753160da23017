"""Policy versions of all but untrained networks."""

from __future__ import annotations

from functools import cache

import torch

from leyline.observation import SEED_SPEC, spec_by_name
from leyline.v1.registry_pb2 import TrainingSummary
from simic.learning.lesson import LearnedVersion
from simic.learning.mlp import MlpNetwork
from simic.learning.network import Layout
from simic.learning.version import learned_version

SURELY = 50.0
"""A logit beside which the others do not count."""


@cache
def version(seed: int, parent: str = "", slots: int = 3, spec_name: str = "seed") -> LearnedVersion:
    """A version; another seed, another one."""
    spec = spec_by_name(spec_name)
    network = MlpNetwork(Layout.of(spec), slots=slots, seed=seed)
    return learned_version(network, spec, parent, TrainingSummary(), b"checkpoint")


def waiting(seed: int) -> LearnedVersion:
    """A version that waits whatever it sees; another seed, another one."""
    network = MlpNetwork(Layout.of(SEED_SPEC), slots=3, seed=seed)
    with torch.no_grad():
        network.policy.type_head.bias[0] = SURELY
    return learned_version(network, SEED_SPEC, "", TrainingSummary(), b"checkpoint")


def growing(slot: int) -> LearnedVersion:
    """A version that germinates a seed at a slot and advances it, at once and to the end."""
    network = MlpNetwork(Layout.of(SEED_SPEC), slots=3)
    features = [feature.name for feature in SEED_SPEC.slot_features]
    has_seed = len(SEED_SPEC.global_features) + slot * len(features) + features.index("has_seed")
    germinate, advance = 1, 2
    policy = network.policy
    with torch.no_grad():
        for layer in (policy.hidden_1, policy.hidden_2, policy.type_head, policy.slot_head):
            layer.weight.zero_()
            layer.bias.zero_()
        policy.hidden_1.weight[0, has_seed] = policy.hidden_2.weight[0, 0] = 1.0
        policy.type_head.bias[germinate] = SURELY
        policy.type_head.weight[advance, 0] = 2 * SURELY
        policy.slot_head.bias[slot] = SURELY
    return learned_version(network, SEED_SPEC, "", TrainingSummary(), b"checkpoint")
