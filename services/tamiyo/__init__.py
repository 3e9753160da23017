"""Tamiyo: the policy service, which decides when and where a network grows.

For policies of one's own: `serve`, `Choice`, `Policy`, `NetworkPolicy`, `Outputs`.
"""

import os

# Before anything imports onnxruntime, whose newer builds report to their makers from Linux too, and
# keep an id of the machine below ~/.cache.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from tamiyo.outputs import Outputs
from tamiyo.own import serve
from tamiyo.policies.network import NetworkPolicy
from tamiyo.policy import Choice, Policy

__all__ = ["Choice", "NetworkPolicy", "Outputs", "Policy", "serve"]
