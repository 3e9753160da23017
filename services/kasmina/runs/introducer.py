"""Begins episodes that no policy service decides at the experience service."""

from __future__ import annotations

from chassis.channel import ChannelSettings, open_channel
from chassis.logging import get_logger
from chassis.status import RemoteError
from kasmina.runs.background_loop import BackgroundLoop
from kasmina.runs.decider import EpisodeTerms
from kasmina.runs.episode_log import Beginning
from kasmina.runs.experience_client import ExperienceClient
from leyline.v1.decision_pb2 import SelectionMode

_log = get_logger(__name__)


class Introducer:
    """Tells the experience service of an episode, and does not mind when that is away: the outbox's
    drainer tells it later then. Calls run in `loop`, which the caller ends.
    """

    def __init__(self, experience: ChannelSettings, timeout_s: float, loop: BackgroundLoop) -> None:
        self._timeout_s = timeout_s
        self._loop = loop
        self._client = loop.run(self._connect(experience))

    def begin(self, terms: EpisodeTerms, policy: str, mode: SelectionMode.ValueType) -> Beginning:
        """The episode as it begins, without a version to pin it to."""
        introduction = terms.introduction(policy, mode)
        fence = None
        try:
            begun = self._loop.run(self._client.begin_episode(introduction, self._timeout_s))
            fence = begun.fence
        except RemoteError as error:
            _log.warning("episode is not introduced yet", reason=str(error))
        return Beginning(policy, False, None, mode, fence)

    async def _connect(self, experience: ChannelSettings) -> ExperienceClient:
        # A channel belongs to the event loop in which it was opened.
        return ExperienceClient(open_channel(experience))
