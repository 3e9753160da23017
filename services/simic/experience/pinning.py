"""Who decides an episode, from its first step to its last."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, or_, select

from chassis.errors import ErrorCode, LeylineError, Violation
from leyline.v1.decision_pb2 import SelectionMode
from leyline.v1.experience_pb2 import BeginEpisodeRequest
from leyline.v1.learner_pb2 import TrainingState
from simic.database.schema import training_updates, trainings
from simic.experience.evaluation import assignment
from simic.policies.fitting import Shape, version_for

_RUNNING = TrainingState.TRAINING_STATE_RUNNING


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
    """Pin an episode that begins.

    In the run of a deterministic training its version follows from its index. Else an evaluation
    may want it; and else it is the newest activated version that decides for the episode's slots
    and spec and is not refused. What is activated for other episodes is no version for this one.
    Where the policy does not follow the registry there is none.

    Raises:
        LeylineError: VERSION_NOT_READY where a deterministic training has not made it yet;
            INVALID_ARGUMENT for a situation that is held out, in the run of one.
    """
    origin = request.origin
    # An episode of an evaluation may have begun when the store was another one.
    pair = origin.evaluation_pair if origin.HasField("evaluation_pair") else None
    training = _deterministic_training(connection, request.run_id)
    if training is not None:
        _refuse_held_out(training, request)
    if not request.follows_registry:
        return Pin(None, request.mode, pair)
    if training is not None:
        return Pin(_version_by_index(connection, training, request), request.mode, pair)
    version = version_for(connection, Shape(request.slots, request.spec_fingerprint))
    wanted = assignment(connection, request, version)
    if wanted is not None:
        return Pin(wanted.policy_version, SelectionMode.SELECTION_MODE_GREEDY, wanted.pair)
    return Pin(version, request.mode, pair)


def _refuse_held_out(training: RowMapping, request: BeginEpisodeRequest) -> None:
    if not request.origin.situation.held_out:
        return
    described = (
        f"must not be held out: training {training['training_id']!r} learns from the run, and "
        "waits for its episodes; give those of an evaluation another run_id"
    )
    violation = Violation("origin.situation.held_out", described)
    raise LeylineError(ErrorCode.INVALID_ARGUMENT, violations=[violation])


def _deterministic_training(connection: Connection, run_id: str) -> RowMapping | None:
    """The training that is to learn from the run's episodes in their order, or has done so."""
    query = (
        select(
            trainings.c.id,
            trainings.c.training_id,
            trainings.c.state,
            trainings.c.updates,
            trainings.c.episodes_per_update,
            trainings.c.lag,
        )
        .where(
            trainings.c.deterministic,
            trainings.c.run_id == run_id,
            # One that ended before it had a version has nothing to pin to.
            or_(trainings.c.state == _RUNNING, trainings.c.policy_version.is_not(None)),
        )
        .order_by(trainings.c.id.desc())
        .limit(1)
    )
    return connection.execute(query).mappings().one_or_none()


def _version_by_index(
    connection: Connection, training: RowMapping, request: BeginEpisodeRequest
) -> str:
    """The version after as many updates as the episodes before this one make, less the lag.

    Of a training that has ended it is at most the last one.
    """
    update = max(0, request.episode_index // training["episodes_per_update"] - training["lag"])
    if training["state"] != _RUNNING:
        update = min(update, training["updates"])
    version: str | None = connection.execute(
        select(training_updates.c.policy_version).where(
            training_updates.c.training == training["id"], training_updates.c.sequence == update
        )
    ).scalar_one_or_none()
    if version is None:
        raise LeylineError(
            ErrorCode.VERSION_NOT_READY,
            run_id=request.run_id,
            episode_index=request.episode_index,
            update=update,
        )
    return version
