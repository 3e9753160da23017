"""What an episode is made of: seeds and situation, and its kin."""

from __future__ import annotations

from kasmina.runs.episode_log import EpisodeLog
from kasmina.runs.episode_source import EpisodeSource
from kasmina.runs.run_control import RunFailed
from leyline.v1.episode_pb2 import EpisodeOrigin
from leyline.v1.trainer_pb2 import RunSpec


def origin_of(
    spec: RunSpec, episode_index: int, episodes: EpisodeLog, source: EpisodeSource
) -> EpisodeOrigin:
    """The episode's origin: seeds and situation are its own, or those of the parent of a fork.

    Raises `RunFailed` where the parent has been forgotten.
    """
    origin = EpisodeOrigin()
    if spec.HasField("fork"):
        reference = spec.fork.parent
        parent = episodes.get(reference.run_id, reference.episode_index)
        if parent is None:
            raise RunFailed(
                f"episode {reference.episode_index} of run {reference.run_id!r}, which this one is"
                " forked from, has been forgotten"
            )
        origin.seeds.CopyFrom(parent.origin.seeds)
        if parent.origin.HasField("situation"):
            origin.situation.CopyFrom(parent.origin.situation)
        origin.fork.CopyFrom(spec.fork)
    else:
        origin.CopyFrom(source.origin(episode_index))
    if spec.twin_run:
        origin.twin.run_id = spec.twin_run
        origin.twin.episode_index = episode_index
    return origin
