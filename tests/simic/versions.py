"""Policy versions of all but untrained networks."""

from __future__ import annotations

from leyline.observation import SEED_SPEC, vector_length
from leyline.v1.observation_pb2 import ObservationSpec
from leyline.v1.registry_pb2 import TrainingSummary
from simic.learning.lesson import LearnedVersion
from simic.learning.network import MlpNetwork
from simic.learning.version import learned_version


def version(
    seed: int, parent: str = "", slots: int = 3, spec: ObservationSpec = SEED_SPEC
) -> LearnedVersion:
    """A version; another seed, another one."""
    network = MlpNetwork(length=vector_length(spec, slots), slots=slots, seed=seed)
    return learned_version(network, spec, parent, TrainingSummary(), b"checkpoint")
