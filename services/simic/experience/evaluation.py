"""Episodes of evaluations: which pair an episode that begins is to be played for, and which count.

In an evaluation a candidate and the version that it would replace play pairs of episodes, greedily.
Both episodes of a pair are of one run, and have their seeds and their situation from the run's own
and the number of the pair; nothing differs but who decides. As pairs are numbered from 0 in each
run, a version has played there for all its evaluations what it has played for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Row, exists, or_, select

from leyline.v1.decision_pb2 import SelectionMode
from leyline.v1.experience_pb2 import BeginEpisodeRequest
from leyline.v1.learner_pb2 import TrainingPlan
from leyline.v1.transition_pb2 import Decider, Termination
from simic.database.schema import episodes, transitions
from simic.policies import candidates
from simic.policies.fitting import Shape, decides, is_refused


@dataclass(frozen=True)
class Assignment:
    """What an episode is to be played for.

    Attributes:
        policy_version: which decides, greedily.
        pair: from 0.
    """

    policy_version: str
    pair: int


def assignment(
    connection: Connection, request: BeginEpisodeRequest, baseline: str | None
) -> Assignment | None:
    """What the evaluation under way, or the one that waits, wants of an episode that begins.

    None where there is none, where it does not concern the run, or where all of its pairs are being
    played. An episode that came to another end than its horizon, or in which somebody else took a
    decision, is wanted again.

    Args:
        connection: of a transaction that writes.
        request: the episode that begins.
        baseline: the version that would decide it otherwise.
    """
    candidate = candidates.next_candidate(connection) if request.offers_evaluation else None
    if candidate is None or baseline is None:
        return None
    version: str = candidate["policy_version"]
    learned_from = (
        request.follows_registry
        and request.mode == SelectionMode.SELECTION_MODE_SAMPLED
        and not request.origin.situation.held_out
        and TrainingPlan.FromString(candidate["plan"]).run_id in ("", request.run_id)
    )
    shape = Shape(request.slots, request.spec_fingerprint)
    if not learned_from or version == baseline or not decides(connection, version, shape):
        return None
    if is_refused(connection, version):
        return None
    wanted = _wanted(connection, request.run_id, version, baseline, candidate["pairs"])
    if wanted is not None:
        candidates.begin(connection, candidate["id"])
    return wanted


def _wanted(
    connection: Connection, run_id: str, candidate: str, baseline: str, pairs: int
) -> Assignment | None:
    taken = {
        (row.run_id, row.evaluation_pair, row.policy_version)
        for row in played(connection, [candidate, baseline])
    }
    # A half of a pair in another run may stay one: that run may be over.
    complete = sum(
        version == candidate and (run, pair, baseline) in taken for run, pair, version in taken
    )
    for pair in range(pairs):
        if (run_id, pair, candidate) not in taken:
            if complete < pairs:
                return Assignment(candidate, pair)
        elif (run_id, pair, baseline) not in taken:
            return Assignment(baseline, pair)
    return None


def played(connection: Connection, versions: Sequence[str]) -> Sequence[Row[tuple[object, ...]]]:
    """The episodes that these versions play, or have played, for pairs of evaluations; without
    those that are to be played again.

    Each has ``id``, ``run_id``, ``evaluation_pair``, ``policy_version``, ``slots``,
    ``spec_fingerprint`` and ``whole``, which is whether it is over and its return can be computed.
    """
    by_another = exists().where(
        transitions.c.episode_id == episodes.c.id,
        or_(
            transitions.c.decider != Decider.DECIDER_POLICY,
            transitions.c.policy_version.is_distinct_from(episodes.c.policy_version),
        ),
    )
    whole = episodes.c.whole_sequence.is_not(None)
    return connection.execute(
        select(
            episodes.c.id,
            episodes.c.run_id,
            episodes.c.evaluation_pair,
            episodes.c.policy_version,
            episodes.c.slots,
            episodes.c.spec_fingerprint,
            whole.label("whole"),
        )
        .where(
            episodes.c.evaluation_pair.is_not(None),
            episodes.c.policy_version.in_(versions),
            episodes.c.termination.in_(
                (Termination.TERMINATION_UNSPECIFIED, Termination.TERMINATION_HORIZON)
            ),
            ~by_another,
            # Until its trainer has told the origin, nobody knows that it has that of its pair.
            or_(~whole, episodes.c.origin.is_not(None)),
        )
        .order_by(episodes.c.id)
    ).all()
