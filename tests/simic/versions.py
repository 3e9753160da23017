"""Policy versions of all but untrained networks."""

from __future__ import annotations

from functools import cache

from leyline.observation import SEED_SPEC
from leyline.v1.registry_pb2 import TrainingSummary
from simic.learning.lesson import LearnedVersion
from simic.learning.network import MlpNetwork
from simic.learning.version import learned_version


@cache
def version(seed: int, parent: str = "") -> LearnedVersion:
    """A version; another seed, another one."""
    network = MlpNetwork(length=48, slots=3, seed=seed)
    return learned_version(network, SEED_SPEC, parent, TrainingSummary(), b"checkpoint")
