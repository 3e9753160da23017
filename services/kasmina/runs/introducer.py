"""Begins episodes that no policy service decides at the experience service."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from chassis.channel import ChannelSettings, open_channel
from chassis.logging import get_logger
from chassis.status import RemoteError
from kasmina.runs.background_loop import BackgroundLoop
from kasmina.runs.decider import EpisodeTerms
from kasmina.runs.episode_log import Beginning
from kasmina.runs.experience_client import FOR_GOOD, ExperienceClient
from kasmina.runs.run_control import RunControl, RunFailed
from leyline.v1.decision_pb2 import SelectionMode

if TYPE_CHECKING:
    from chassis.spans import Tracing

_log = get_logger(__name__)

_RETRY_S = 0.25


class Introducer:
    """Tells the experience service of an episode, and does not mind when that is away: the outbox's
    drainer tells it later then. Calls run in `loop`, which the caller ends.
    """

    def __init__(
        self,
        experience: ChannelSettings,
        timeout_s: float,
        loop: BackgroundLoop,
        waiting: RunControl | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """Makes it; with `waiting`, the control of a run, it does mind, and that run waits."""
        self._target = experience.target
        self._timeout_s = timeout_s
        self._loop = loop
        self._waiting = waiting
        self._client = loop.run(self._connect(experience, tracing))

    def begin(self, terms: EpisodeTerms, policy: str, mode: SelectionMode.ValueType) -> Beginning:
        """The episode as it begins, without a version to pin it to.

        Raises, where a run waits: `RunFailed` where the experience service refuses the episode,
        `RunCancelled`.
        """
        introduction = terms.introduction(policy, mode)
        while True:
            try:
                begun = self._loop.run(self._client.begin_episode(introduction, self._timeout_s))
                break
            except RemoteError as error:
                _log.warning("episode is not introduced yet", reason=str(error))
                if self._waiting is None:
                    return Beginning(policy, False, None, mode, None)
                if error.status in FOR_GOOD:
                    raise RunFailed(
                        f"the experience service refuses the episode: {error}"
                    ) from error
                whom = f"waiting for the experience service at {self._target}"
                self._waiting.pause(f"{whom}: {error}")
                time.sleep(_RETRY_S)
        if self._waiting is not None:
            self._waiting.go_on()
        return Beginning(policy, False, None, mode, begun.fence)

    async def _connect(
        self, experience: ChannelSettings, tracing: Tracing | None
    ) -> ExperienceClient:
        # A channel belongs to the event loop in which it was opened.
        return ExperienceClient(open_channel(experience, tracing))
