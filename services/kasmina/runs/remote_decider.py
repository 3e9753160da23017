"""Decisions by a policy service, for versions that the experience service pins."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from chassis.channel import ChannelSettings, open_channel
from chassis.errors import ErrorCode
from chassis.logging import get_logger
from chassis.status import RemoteError
from kasmina.runs.background_loop import BackgroundLoop
from kasmina.runs.decider import Answer, EpisodeTerms, by_policy, fallback
from kasmina.runs.episode_log import Beginning
from kasmina.runs.experience_client import FOR_GOOD, ExperienceClient
from kasmina.runs.policy_client import PolicyClient, PolicyRefused, PolicyUnavailable
from kasmina.runs.run_control import RunControl, RunFailed
from leyline.v1.decision_pb2 import SELECTION_MODE_UNSPECIFIED, DecisionQuery, SelectionMode
from leyline.v1.experience_pb2 import BeginEpisodeResponse
from leyline.v1.policy_pb2 import GetPolicyInfoResponse

if TYPE_CHECKING:
    from chassis.spans import Tracing

_log = get_logger(__name__)

T = TypeVar("T")

_RETRY_S = 0.25


@dataclass(frozen=True)
class Neighbours:
    """Whom the decider calls, and how long it waits for them.

    Attributes:
        decision_timeout_s: for a decision, before the trainer goes on with WAIT.
        policy_grace_s: for a policy that is away when an episode begins.
        experience_timeout_s: for the pin of an episode's policy version.
        mode: how actions are drawn, unless the experience service says otherwise.
        deterministic: wait for ever instead of going on without them.
    """

    policy: ChannelSettings
    experience: ChannelSettings
    decision_timeout_s: float
    policy_grace_s: float
    experience_timeout_s: float
    mode: SelectionMode.ValueType
    deterministic: bool


class RemoteDecider:
    """A policy service as a decider. Its calls run in `loop`, which the caller ends."""

    def __init__(
        self,
        neighbours: Neighbours,
        loop: BackgroundLoop,
        control: RunControl,
        tracing: Tracing | None = None,
    ) -> None:
        self._neighbours = neighbours
        self._tracing = tracing
        self._loop = loop
        self._control = control
        self._policy, self._experience = loop.run(self._connect())

    def begin(self, terms: EpisodeTerms) -> Beginning:
        """Asks who decides, and for the version that the episode is pinned to.

        Raises:
            RunFailed: the policy does not describe itself as the contract says, or the experience
                service refuses the episode.
            RunCancelled: somebody has asked for the end of a run that waits.
        """
        info = self._introduction()
        if info is None:
            return Beginning("", False, terms.policy_version, self._neighbours.mode, None)
        begun = self._begun(info, terms)
        mode, fence, pair, given = SELECTION_MODE_UNSPECIFIED, None, None, None
        if begun is not None:
            mode, fence = begun.mode, begun.fence
            pair = begun.evaluation_pair if begun.HasField("evaluation_pair") else None
            given = begun.policy_version if begun.HasField("policy_version") else None
        pin = terms.policy_version or given
        return Beginning(
            policy=info.policy,
            follows_registry=info.follows_registry,
            policy_version=pin,
            mode=mode or self._neighbours.mode,
            fence=fence,
            refusal=self._refusal(info, terms, pin, away=begun is None),
            evaluation_pair=pair,
        )

    def decide(self, query: DecisionQuery) -> Answer:
        """The policy's decision, or WAIT where it gives none in time.

        Raises `RunFailed` or `RunCancelled`.
        """
        asked_at = time.monotonic()
        timeout_s = self._neighbours.decision_timeout_s

        def ask() -> Answer:
            decision = self._loop.run(self._policy.decide(query, timeout_s))
            return by_policy(decision, asked_at)

        try:
            return self._patiently(ask)
        except PolicyRefused as refused:
            raise RunFailed(str(refused)) from refused
        except PolicyUnavailable as unavailable:
            _log.warning("fallback", step=query.snapshot.step_id.step, reason=str(unavailable))
            decided = fallback(query.snapshot.step_id, str(unavailable))
            return Answer(decided, time.monotonic() - asked_at)

    def end(self) -> None:
        """Ends the episode's stream of questions."""
        self._loop.run(self._policy.close())

    def close(self) -> None:
        """Ends the connections: nothing can be asked any more."""
        self._loop.run(self._disconnect())

    async def _connect(self) -> tuple[PolicyClient, ExperienceClient]:
        # A channel belongs to the event loop in which it was opened.
        policy, experience = self._neighbours.policy, self._neighbours.experience
        self._channels = [
            open_channel(settings, self._tracing) for settings in (policy, policy, experience)
        ]
        streams, introductions, steps = self._channels
        return PolicyClient(streams, introductions, self._tracing), ExperienceClient(steps)

    async def _disconnect(self) -> None:
        await self._policy.close()
        for channel in self._channels:
            await channel.close()

    def _introduction(self) -> GetPolicyInfoResponse | None:
        """Who decides; None where the policy stays away longer than the grace."""

        latest: GetPolicyInfoResponse | None = None

        def ask() -> GetPolicyInfoResponse:
            nonlocal latest
            latest = self._loop.run(self._policy.info(self._neighbours.decision_timeout_s))
            if not latest.policy_version:
                raise PolicyUnavailable("it has no version to decide with yet")
            return latest

        deadline = time.monotonic() + self._neighbours.policy_grace_s
        while True:
            try:
                return self._patiently(ask)
            except PolicyRefused as refused:
                raise RunFailed(str(refused)) from refused
            except PolicyUnavailable as unavailable:
                if time.monotonic() >= deadline:
                    _log.warning("policy is away", reason=str(unavailable))
                    return latest
            self._control.check_cancelled()
            time.sleep(_RETRY_S)

    def _begun(
        self, info: GetPolicyInfoResponse, terms: EpisodeTerms
    ) -> BeginEpisodeResponse | None:
        """What the experience service said; None where it is away. The outbox's drainer tells it
        later then.
        """
        introduction = terms.introduction(
            info.policy, self._neighbours.mode, follows_registry=info.follows_registry
        )

        def begin() -> BeginEpisodeResponse:
            return self._loop.run(
                self._experience.begin_episode(introduction, self._neighbours.experience_timeout_s)
            )

        try:
            return self._patiently(begin)
        except RemoteError as error:
            _log.warning("episode is not pinned", reason=str(error))
            return None

    def _refusal(
        self, info: GetPolicyInfoResponse, terms: EpisodeTerms, pin: str | None, *, away: bool
    ) -> str | None:
        """Why the policy cannot decide, as far as is known: of any version but the one that it
        serves by default, its own answers will tell.
        """
        if not info.policy_version or pin not in (None, info.policy_version):
            return None
        misfit = _misfit(info, terms)
        if misfit is None or not info.follows_registry:
            return misfit
        if away:
            experience = self._neighbours.experience.target
            return (
                f"{misfit}, unless the experience service, which is away at {experience}, pins one"
            )
        return f"{misfit}, or activate one of the registry that does (leyline policy list)"

    def _patiently(self, ask: Callable[[], T]) -> T:
        """The answer, whenever it comes; until then the run is PAUSED and says what for.

        A run that is not deterministic waits only for a version that is yet to be learned: decided
        by another one, its episode would be missing in the training. What else keeps the answer
        away is raised then.
        """
        patient = self._neighbours.deterministic
        while True:
            try:
                answer = ask()
                break
            except PolicyUnavailable as unavailable:
                if not patient:
                    raise
                waits_for = f"waiting for the policy at {self._neighbours.policy.target}"
                self._control.pause(f"{waits_for}: {unavailable}")
            except RemoteError as error:
                is_learned = error.error_code is ErrorCode.VERSION_NOT_READY
                # Also while the service is away in between.
                patient = patient or is_learned
                if not patient:
                    raise
                if error.status in FOR_GOOD:
                    raise RunFailed(
                        f"the experience service refuses the episode: {error}"
                    ) from error
                whom = "the learner" if is_learned else "the experience service"
                waits_for = f"waiting for {whom} at {self._neighbours.experience.target}"
                self._control.pause(f"{waits_for}: {error}")
            time.sleep(_RETRY_S)
        self._control.go_on()
        return answer


def _misfit(info: GetPolicyInfoResponse, terms: EpisodeTerms) -> str | None:
    """Why the policy's default version cannot decide for the run's observations."""
    if info.spec_fingerprint != terms.spec_fingerprint:
        return (
            f"FINGERPRINT_MISMATCH: policy {info.policy!r} wants observations by spec"
            f" {info.spec_name!r} ({info.spec_fingerprint[:12]}), the run's have"
            f" {terms.spec_fingerprint[:12]}; choose another policy or observation_spec"
        )
    slots = info.slots
    if slots.WhichOneof("slots") == "exactly" and slots.exactly != terms.slots:
        return (
            f"SLOT_COUNT_MISMATCH: policy {info.policy!r} decides for {slots.exactly} slots,"
            f" the run has {terms.slots}; choose a policy that decides for these"
        )
    return None
