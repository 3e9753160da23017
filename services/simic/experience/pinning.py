"""Who decides an episode, from its first step to its last."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection

from leyline.v1.decision_pb2 import SelectionMode
from leyline.v1.experience_pb2 import BeginEpisodeRequest
from simic.experience.evaluation import assignment
from simic.policies.fitting import Shape, version_for


@dataclass(frozen=True)
class Pin:
    """What an episode keeps.

    Attributes:
        policy_version: the version that decides; None where none of the registry does.
        mode: how actions are drawn.
        evaluation_pair: the pair of an evaluation that it belongs to; None outside evaluations.
    """

    policy_version: str | None
    mode: SelectionMode.ValueType
    evaluation_pair: int | None


def pin(connection: Connection, request: BeginEpisodeRequest) -> Pin:
    """Pin an episode that begins: to what an evaluation wants of it, or else to
    ``version_to_pin``.
    """
    version = version_to_pin(connection, request)
    wanted = assignment(connection, request, version)
    if wanted is not None:
        return Pin(wanted.policy_version, SelectionMode.SELECTION_MODE_GREEDY, wanted.pair)
    # An episode of an evaluation may have begun when the store was another one.
    origin = request.origin
    pair = origin.evaluation_pair if origin.HasField("evaluation_pair") else None
    return Pin(version, request.mode, pair)


def version_to_pin(connection: Connection, request: BeginEpisodeRequest) -> str | None:
    """The version for an episode that begins: the newest activated one that decides for its slots
    and its spec and is not refused.

    None where the policy does not follow the registry, or nothing there decides for the episode.
    What is activated for other episodes is no version for this one.
    """
    if not request.follows_registry:
        return None
    return version_for(connection, Shape(request.slots, request.spec_fingerprint))
