"""Evaluations of a training's versions, judged when all of their episodes are whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, select

from leyline.v1.learner_pb2 import TrainingPlan, TrainingState
from leyline.v1.registry_pb2 import PolicyEvaluation, WatchPoliciesResponse
from leyline.v1.transition_pb2 import Transition
from simic.database import moment
from simic.database.database import Database
from simic.database.schema import transitions
from simic.experience.evaluation import played
from simic.learning.comparison import Comparison, compare
from simic.learning.reward import Reward
from simic.learning.training import finish, require
from simic.policies import activation, candidates, events
from simic.policies.fitting import Shape, is_refused, version_for


@dataclass(frozen=True)
class _Pair:
    """Two whole episodes, by their row numbers."""

    episode: int
    baseline: str
    baseline_episode: int


class Evaluations:
    """The evaluations of one training. Every method blocks on the disk."""

    def __init__(self, database: Database, training_id: str, reward: Reward) -> None:
        """Judge versions of a training by the sum of ``reward`` over each episode."""
        self._database = database
        self._training_id = training_id
        self._reward = reward

    def conclude(self) -> PolicyEvaluation | None:
        """Judge the version that is being evaluated, where all of its pairs are whole.

        It becomes the active one unless the evidence says that it is worse. A version that a policy
        server refused, or that somebody has made the active one by hand, is not judged any more.
        A training that has made all of its updates ends with its last evaluation.

        Returns:
            The judgement; None where there was nothing to judge.
        """
        # Hundreds of episodes are read and paid for: nobody else's commit waits for that.
        with self._database.read() as connection:
            training = require(connection, self._training_id)
            candidate = candidates.next_candidate(connection, training["id"])
            if candidate is None or not self._is_due(connection, candidate):
                return None
            evaluation = None
            if not _is_moot(connection, candidate["policy_version"]):
                evaluation = self._judged(connection, candidate)
        with self._database.write() as connection:
            # Once more: what was true a moment ago may not be.
            training = require(connection, self._training_id)
            still = candidates.next_candidate(connection, training["id"])
            if still is None or still["id"] != candidate["id"]:
                return None
            if _is_moot(connection, candidate["policy_version"]):
                evaluation = None
            if evaluation is not None:
                _publish(connection, evaluation)
            candidates.dismiss(connection, candidate["id"])
            _finish_if_last(connection, training)
        return evaluation

    @staticmethod
    def _is_due(connection: Connection, candidate: RowMapping) -> bool:
        version, pairs = candidate["policy_version"], candidate["pairs"]
        return _is_moot(connection, version) or len(list(_pairs(connection, version))) >= pairs

    def _judged(self, connection: Connection, candidate: RowMapping) -> PolicyEvaluation:
        version = candidate["policy_version"]
        pairs = list(_pairs(connection, version))
        baseline = Counter(pair.baseline for pair in pairs).most_common(1)[0][0]
        comparison = compare(
            [self._return(connection, pair.episode) for pair in pairs],
            [self._return(connection, pair.baseline_episode) for pair in pairs],
        )
        return _message(version, baseline, comparison)

    def _return(self, connection: Connection, episode: int) -> float:
        payloads = connection.execute(
            select(transitions.c.payload)
            .where(transitions.c.episode_id == episode)
            .order_by(transitions.c.step)
        ).scalars()
        return float(self._reward([Transition.FromString(each) for each in payloads]).sum())


def _publish(connection: Connection, evaluation: PolicyEvaluation) -> None:
    version, baseline = evaluation.policy_version, evaluation.baseline_version
    event = WatchPoliciesResponse(evaluated=evaluation)
    events.append(connection, events.EVALUATED, version, event)
    if evaluation.activated:
        reason = f"not worse than {baseline} on {evaluation.pairs} pairs of episodes"
        activation.activate(connection, version, reason)


def _is_moot(connection: Connection, policy_version: str) -> bool:
    active = activation.active_version(connection)
    return policy_version == active or is_refused(connection, policy_version)


def _pairs(connection: Connection, candidate: str) -> Iterator[_Pair]:
    """The pairs of which both episodes are whole. A candidate that decides for episodes of several
    shapes is compared, in each, with what would decide there instead.
    """
    its = [row for row in played(connection, [candidate]) if row.whole]
    shapes = {Shape(row.slots, row.spec_fingerprint) for row in its}
    baselines = {shape: version_for(connection, shape) for shape in shapes}
    others = {
        (row.run_id, row.evaluation_pair, row.policy_version): row.id
        for row in played(connection, [name for name in baselines.values() if name is not None])
        if row.whole
    }
    for row in its:
        baseline = baselines[Shape(row.slots, row.spec_fingerprint)]
        other = others.get((row.run_id, row.evaluation_pair, baseline))
        if baseline is not None and other is not None:
            yield _Pair(row.id, baseline, other)


def _message(version: str, baseline: str, comparison: Comparison) -> PolicyEvaluation:
    low, high = comparison.interval or (None, None)
    return PolicyEvaluation(
        policy_version=version,
        baseline_version=baseline,
        pairs=comparison.pairs,
        mean_return=comparison.mean,
        baseline_mean_return=comparison.baseline_mean,
        mean_difference=comparison.difference,
        interval_low=low,
        interval_high=high,
        activated=not comparison.is_worse,
        time=moment.to_proto(moment.now()),
    )


def _finish_if_last(connection: Connection, training: RowMapping) -> None:
    updates = training["updates"]
    made_all = updates and updates == TrainingPlan.FromString(training["plan"]).max_updates
    if made_all and candidates.next_candidate(connection, training["id"]) is None:
        completed = TrainingState.TRAINING_STATE_COMPLETED
        finish(connection, training["id"], completed, f"made all of its {updates} updates")
