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
from simic.learning.network import MlpNetwork
from simic.policies.artifact import mlp_model, to_bytes, version_name

GOLDEN_OBSERVATIONS = 4


def learned_version(
    network: MlpNetwork,
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
    model = mlp_model(network.weights())
    artifact = to_bytes(model)
    manifest = PolicyManifest(
        policy_version=version_name(network.name, model),
        parent_version=parent,
        network=network.name,
        format="onnx",
        artifact_sha256=hashlib.sha256(artifact).hexdigest(),
        artifact_size=len(artifact),
        observation_spec=spec,
        slots=SlotRequirement(exactly=network.slots),
        golden_outputs=golden_outputs(network),
        training=summary,
    )
    return LearnedVersion(manifest, artifact, checkpoint)


@torch.no_grad()
def golden_outputs(network: MlpNetwork) -> list[GoldenOutput]:
    """Known answers: to an observation of zeros, and to some spread over the features' range.

    Computed in double precision, so that whoever checks them sees only its own rounding.
    """
    generator = np.random.default_rng(0)
    spread = generator.uniform(-1.0, 1.5, (GOLDEN_OBSERVATIONS - 1, network.length))
    zeros = np.zeros((1, network.length))
    observations = np.concatenate([zeros, spread]).astype(np.float32)
    exact = copy.deepcopy(network).double()
    type_logits, slot_logits, values = exact(torch.from_numpy(observations).double())
    return [
        GoldenOutput(
            observation=observations[row].tolist(),
            type_logits=type_logits[row].tolist(),
            slot_logits=slot_logits[row].flatten().tolist(),
            value=values[row].item(),
        )
        for row in range(len(observations))
    ]
