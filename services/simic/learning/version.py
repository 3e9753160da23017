"""A network as a policy version: artifact, manifest and known answers."""

from __future__ import annotations

import copy
import hashlib

import numpy as np
import torch

from leyline.v1.observation_pb2 import ObservationSpec
from leyline.v1.policy_pb2 import SlotRequirement
from leyline.v1.registry_pb2 import GoldenOutput, PolicyManifest, TrainingSummary
from simic.learning.lesson import LearnedVersion
from simic.learning.network import PolicyNetwork
from simic.policies.artifact import MODELS, to_bytes, version_name

GOLDEN_OBSERVATIONS = 4
GOLDEN_SLOTS = (1, 3, 8)
"""Numbers of slots to give known answers for, where any will do."""


def learned_version(
    network: PolicyNetwork,
    spec: ObservationSpec,
    parent: str,
    summary: TrainingSummary,
    checkpoint: bytes,
) -> LearnedVersion:
    """What the registry is to keep of ``network`` as it stands.

    Args:
        network: the policy.
        spec: how its observations are made.
        parent: the version that it was trained from; empty for an initial one.
        summary: how it came to be.
        checkpoint: the state to go on learning from.
    """
    model = MODELS[network.name](network.weights())
    artifact = to_bytes(model)
    manifest = PolicyManifest(
        policy_version=version_name(network.name, model),
        parent_version=parent,
        network=network.name,
        format="onnx",
        artifact_sha256=hashlib.sha256(artifact).hexdigest(),
        artifact_size=len(artifact),
        observation_spec=spec,
        slots=_requirement(network.slots),
        golden_outputs=golden_outputs(network),
        training=summary,
    )
    return LearnedVersion(manifest, artifact, checkpoint)


def _requirement(slots: int) -> SlotRequirement:
    return SlotRequirement(exactly=slots) if slots else SlotRequirement(any=True)


@torch.no_grad()
def golden_outputs(network: PolicyNetwork) -> list[GoldenOutput]:
    """Known answers: to an observation of zeros, and to some spread over the features' range.

    Computed in double precision, so that whoever checks them sees only its own rounding. A network
    for any number of slots answers for several.
    """
    generator = np.random.default_rng(0)
    exact = copy.deepcopy(network).double()
    answers = []
    for slots in [network.slots] if network.slots else GOLDEN_SLOTS:
        length = network.layout.length(slots)
        spread = generator.uniform(-1.0, 1.5, (GOLDEN_OBSERVATIONS - 1, length))
        observations = np.concatenate([np.zeros((1, length)), spread]).astype(np.float32)
        type_logits, slot_logits, values = exact(torch.from_numpy(observations).double())
        answers += [
            GoldenOutput(
                observation=observations[row].tolist(),
                type_logits=type_logits[row].tolist(),
                slot_logits=slot_logits[row].flatten().tolist(),
                value=values[row].item(),
            )
            for row in range(len(observations))
        ]
    return answers
