"""The policies that come with Tamiyo, each in a module of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from leyline.v1.observation_pb2 import ObservationSpec
from tamiyo.policies.heuristic import HeuristicPolicy
from tamiyo.policies.uniform import RandomPolicy
from tamiyo.policies.wait import WaitPolicy
from tamiyo.policy import Policy

BUILT_IN: Mapping[str, Callable[[ObservationSpec], Policy]] = MappingProxyType(
    {"wait": WaitPolicy, "random": RandomPolicy, "heuristic": HeuristicPolicy}
)
"""By name, the policies that need no registry: each is made for the spec that its queries carry."""
