"""What the other servers serve: Tamiyo's learned policy, without Tamiyo around it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leyline.v1.policy_pb2 import StreamDecisionsRequest, StreamDecisionsResponse
from tamiyo.artifact import Artifact
from tamiyo.cache import ArtifactCache
from tamiyo.policies.learned import LearnedPolicy
from tamiyo.policy import decision_from


class ServedModel:
    """The version that `decisions.keep_version` left in a directory."""

    def __init__(self, state_dir: Path) -> None:
        cache = ArtifactCache(state_dir, 1)
        kept = cache.read(cache.active() or "")
        assert kept is not None
        self._policy = LearnedPolicy(Artifact(*kept))

    def answers(self, requests: Sequence[StreamDecisionsRequest]) -> list[StreamDecisionsResponse]:
        """Decides them together; the contract's rules are not checked."""
        queries = [request.query for request in requests]
        choices = self._policy.decide(queries)
        return [
            StreamDecisionsResponse(
                step_id=query.snapshot.step_id,
                decision=decision_from(self._policy, query, choice),
            )
            for query, choice in zip(queries, choices, strict=True)
        ]
