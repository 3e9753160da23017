"""The version that decides an episode, from its first step to its last."""

from __future__ import annotations

from sqlalchemy import Connection

from leyline.v1.experience_pb2 import BeginEpisodeRequest
from simic.policies.fitting import Shape, version_for


def version_to_pin(connection: Connection, request: BeginEpisodeRequest) -> str | None:
    """The version for an episode that begins: the newest activated one that decides for its slots
    and its spec and is not refused.

    None where the policy does not follow the registry, or nothing there decides for the episode.
    What is activated for other episodes is no version for this one.
    """
    if not request.follows_registry:
        return None
    return version_for(connection, Shape(request.slots, request.spec_fingerprint))
