"""Policy networks by name."""

from __future__ import annotations

from leyline.observation import spec_by_name
from leyline.v1.learner_pb2 import TrainingPlan
from simic.learning.mlp import MlpNetwork
from simic.learning.network import Layout, PolicyNetwork
from simic.learning.plan import masked_features
from simic.learning.slot_shared import SlotSharedNetwork


def build(plan: TrainingPlan) -> PolicyNetwork:
    """A fresh network as a filled plan asks for it."""
    layout = Layout.of(spec_by_name(plan.observation_spec), masked_features(plan))
    if plan.network == MlpNetwork.name:
        return MlpNetwork(layout, plan.slots, plan.seed)
    return SlotSharedNetwork(layout, plan.seed)
