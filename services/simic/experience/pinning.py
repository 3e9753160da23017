"""Which version decides an episode that begins."""

from __future__ import annotations

from sqlalchemy import Connection, RowMapping, or_, select

from chassis.errors import ErrorCode, LeylineError, Violation
from leyline.v1.experience_pb2 import BeginEpisodeRequest
from leyline.v1.learner_pb2 import TrainingState
from simic.database.schema import training_updates, trainings
from simic.policies import registry

_RUNNING = TrainingState.TRAINING_STATE_RUNNING


def version_to_pin(connection: Connection, request: BeginEpisodeRequest) -> str | None:
    """The version that an episode which begins now is pinned to; None where there is none.

    In the run of a deterministic training it follows from the episode's index. Else it is the
    newest activated one.

    Raises:
        LeylineError: VERSION_NOT_READY where the training has not made it yet; INVALID_ARGUMENT
            for a situation that is held out, in a run that is learned from.
    """
    training = _deterministic_training(connection, request.run_id)
    if training is not None and request.origin.situation.held_out:
        described = (
            f"must not be held out: training {training['training_id']!r} learns from the run, and "
            "waits for its episodes; give those of an evaluation another run_id"
        )
        violation = Violation("origin.situation.held_out", described)
        raise LeylineError(ErrorCode.INVALID_ARGUMENT, violations=[violation])
    if not request.follows_registry:
        return None
    if training is not None:
        return _version_by_index(connection, training, request)
    return registry.version_to_pin(connection)


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
