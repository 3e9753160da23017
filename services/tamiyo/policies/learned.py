"""A policy that was learned: an artifact of the registry."""

from __future__ import annotations

from chassis.errors import ErrorCode, LeylineError
from tamiyo.artifact import Artifact
from tamiyo.outputs import Float32, Outputs
from tamiyo.policies.network import NetworkPolicy


class LearnedPolicy(NetworkPolicy):
    """One registered version: its network's distribution over type and slot, and its value."""

    name = "learned"

    def __init__(self, artifact: Artifact) -> None:
        """Serve a verified artifact."""
        self._artifact = artifact
        self.version = artifact.manifest.policy_version
        self.spec = artifact.manifest.observation_spec
        self.slots = artifact.slots
        self._vector = artifact.vectorizer

    def evaluate(self, observations: Float32) -> Outputs:
        """Run the graph."""
        return self._artifact.evaluate(observations)

    def unusable(self, problem: str) -> Exception:
        """Blame the artifact."""
        return LeylineError(
            ErrorCode.ARTIFACT_CORRUPT, policy_version=self.version, problem=problem
        )
