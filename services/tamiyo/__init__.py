"""Tamiyo: the policy service, which decides when and where a network grows.

For policies of one's own: `serve`, `Choice`, `Policy`, `NetworkPolicy`, `Outputs`.
"""

from tamiyo.outputs import Outputs
from tamiyo.own import serve
from tamiyo.policies.network import NetworkPolicy
from tamiyo.policy import Choice, Policy

__all__ = ["Choice", "NetworkPolicy", "Outputs", "Policy", "serve"]
