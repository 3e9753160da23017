"""Episodes and their steps in the journal: what was decided before it is applied, what came of it,
where to go on.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from kasmina.runs.database import Database
from kasmina.runs.event_log import append_event
from kasmina.runs.outbox import append_item
from kasmina.runs.run_log import end_episode
from leyline.v1.decision_pb2 import ACTION_TYPE_WAIT, Decision, SelectionMode
from leyline.v1.episode_pb2 import EpisodeOrigin
from leyline.v1.experience_pb2 import ExperienceItem
from leyline.v1.snapshot_pb2 import StepId
from leyline.v1.trainer_pb2 import EpisodeBegan, StepCompleted, StepDecided, WatchRunResponse
from leyline.v1.transition_pb2 import Decider, EpisodeEnd, Execution, Termination, Transition


@dataclass(frozen=True)
class Beginning:
    """What an episode begins with.

    Attributes:
        policy: name of the policy; empty where it was away.
        follows_registry: whether its versions are those of the experience service's registry.
        policy_version: the version that decides; None until the first decision tells.
        mode: how actions are drawn.
        fence: what BeginEpisode gave; None where the experience service was away.
        refusal: why nobody can decide the episode; None where somebody can.
        evaluation_pair: the pair of an evaluation that it is to be played for; None: of none.
    """

    policy: str
    follows_registry: bool
    policy_version: str | None
    mode: SelectionMode.ValueType
    fence: int | None
    refusal: str | None = None
    evaluation_pair: int | None = None


@dataclass(frozen=True)
class EpisodeRecord:
    """An episode and how far it is.

    Attributes:
        origin: what it is made of.
        steps: completed.
        termination: 0 while it goes on.
        network_sha256: of the final network; None where there is none.
        network_size: of it, in bytes.
    """

    run_id: str
    episode_index: int
    origin: EpisodeOrigin
    policy: str
    follows_registry: bool
    policy_version: str | None
    mode: SelectionMode.ValueType
    fence: int | None
    steps: int
    termination: Termination.ValueType
    network_sha256: str | None
    network_size: int | None


@dataclass(frozen=True)
class Checkpoint:
    """The file from which an episode goes on.

    Attributes:
        step: the step that comes next.
        path: within the state folder.
    """

    step: int
    path: str


@dataclass(frozen=True)
class Decided:
    """A decision that was written down.

    Attributes:
        fallback_reason: why the trainer fell back; None unless it did.
    """

    decision: Decision
    decider: Decider.ValueType
    fallback_reason: str | None


@dataclass(frozen=True)
class FinalNetwork:
    """The network that an episode leaves.

    Attributes:
        sha256: of its file, lower-case hexadecimal.
        size: of its file, in bytes.
    """

    sha256: str
    size: int


class EpisodeLog:
    """Every episode of every run."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, run_id: str, episode_index: int) -> EpisodeRecord | None:
        """The episode, None where it has not begun."""
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT * FROM episodes WHERE run_id = ? AND episode_index = ?",
                (run_id, episode_index),
            ).fetchone()
        return None if row is None else _record(row)

    def latest(self, run_id: str) -> EpisodeRecord | None:
        """The run's episode with the highest index, None where none has begun."""
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT * FROM episodes WHERE run_id = ? ORDER BY episode_index DESC LIMIT 1",
                (run_id,),
            ).fetchone()
        return None if row is None else _record(row)

    def begin(self, beginning: Beginning, event: EpisodeBegan, run_id: str) -> EpisodeRecord:
        """Begins the episode that `event` tells of, or does again: origin and pin stay, a fence
        grows.
        """
        key = (run_id, event.episode_index)
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO episodes (run_id, episode_index, origin, policy, follows_registry,"
                " policy_version, mode, fence, steps, termination)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, 0) ON CONFLICT DO UPDATE SET"
                " policy_version = coalesce(policy_version, excluded.policy_version),"
                " fence = coalesce(max(fence, excluded.fence), fence, excluded.fence)",
                (
                    *key,
                    event.origin.SerializeToString(),
                    beginning.policy,
                    beginning.follows_registry,
                    beginning.policy_version,
                    beginning.mode,
                    beginning.fence,
                ),
            )
            record = _select(connection, *key)
            if record.policy_version is not None:
                event.policy_version = record.policy_version
            append_event(connection, run_id, WatchRunResponse(episode_began=event))
        return record

    def has_acted(self, run_id: str) -> bool:
        """Whether anything but WAIT was decided in any of the run's episodes so far."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT decision FROM steps WHERE run_id = ?", (run_id,))
            decisions = (Decision.FromString(row["decision"]) for row in rows)
            return any(decision.action_type != ACTION_TYPE_WAIT for decision in decisions)

    def last_step(self, run_id: str, episode_index: int) -> StepCompleted:
        """What the episode's latest completed step told watchers. KeyError where there is none."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT event FROM events WHERE run_id = ? ORDER BY sequence DESC", (run_id,)
            )
            for row in rows:
                event = WatchRunResponse.FromString(row["event"])
                step = event.step_completed
                if step.HasField("step_id") and step.step_id.episode_index == episode_index:
                    return step
        raise KeyError((run_id, episode_index))

    def raise_fence(self, run_id: str, episode_index: int, fence: int) -> None:
        """Writes a fence down unless a higher one is known."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE episodes SET fence = max(coalesce(fence, 0), ?)"
                " WHERE run_id = ? AND episode_index = ?",
                (fence, run_id, episode_index),
            )

    def checkpoint(self, run_id: str, episode_index: int) -> Checkpoint | None:
        """Where the episode goes on; None before its first checkpoint."""
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT step, path FROM checkpoints WHERE run_id = ? AND episode_index = ?",
                (run_id, episode_index),
            ).fetchone()
        return None if row is None else Checkpoint(row["step"], row["path"])

    def point_to(self, run_id: str, episode_index: int, checkpoint: Checkpoint) -> None:
        """Writes down where the episode goes on."""
        with self._database.transaction() as connection:
            _point_to(connection, run_id, episode_index, checkpoint)

    def decided(self, step_id: StepId) -> Decided | None:
        """What was decided for the step; None where nothing was written down."""
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT decision, decider, fallback_reason FROM steps"
                " WHERE run_id = ? AND episode_index = ? AND step = ?",
                _key(step_id),
            ).fetchone()
        if row is None:
            return None
        return Decided(Decision.FromString(row["decision"]), row["decider"], row["fallback_reason"])

    def completed_at(self, step_id: StepId) -> int:
        """When a completed step was, in nanoseconds since 1970."""
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT completed_at FROM steps"
                " WHERE run_id = ? AND episode_index = ? AND step = ?",
                _key(step_id),
            ).fetchone()
        return int(row["completed_at"])

    def write_decision(self, step_id: StepId, decided: Decided, pin: str | None) -> None:
        """Writes a decision down before it is applied. `pin` is the version that the episode keeps
        from now on.
        """
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO steps (run_id, episode_index, step, decision, decider,"
                " fallback_reason) VALUES (?, ?, ?, ?, ?, ?)",
                (
                    *_key(step_id),
                    decided.decision.SerializeToString(),
                    decided.decider,
                    decided.fallback_reason,
                ),
            )
            if pin is not None:
                connection.execute(
                    "UPDATE episodes SET policy_version = coalesce(policy_version, ?)"
                    " WHERE run_id = ? AND episode_index = ?",
                    (pin, step_id.run_id, step_id.episode_index),
                )

    def write_execution(self, execution: Execution, event: StepDecided) -> None:
        """Writes down what was done and tells watchers; a step that is carried out again is told
        once.
        """
        with self._database.transaction() as connection:
            changed = connection.execute(
                "UPDATE steps SET execution = ? WHERE run_id = ? AND episode_index = ? AND step = ?"
                " AND execution IS NULL",
                (execution.SerializeToString(), *_key(event.step_id)),
            )
            if changed.rowcount == 1:
                append_event(connection, event.step_id.run_id, WatchRunResponse(step_decided=event))

    def complete(
        self,
        transition: Transition,
        event: StepCompleted,
        checkpoint: Checkpoint | None,
        traceparent: str | None = None,
    ) -> None:
        """Completes a step: transition, event and the place to go on become true together.

        Without a checkpoint, whoever trains remembers the place by himself. `traceparent` goes with
        the transition to whoever stores it.
        """
        step_id = transition.step_id
        with self._database.transaction() as connection:
            _complete(connection, transition, event, traceparent)
            if checkpoint is not None:
                _point_to(connection, step_id.run_id, step_id.episode_index, checkpoint)

    def complete_last(
        self,
        transition: Transition,
        event: StepCompleted,
        end: EpisodeEnd,
        network: FinalNetwork | None,
        traceparent: str | None = None,
    ) -> None:
        """Completes the last step, and with it the episode, which may leave no network."""
        with self._database.transaction() as connection:
            _complete(connection, transition, event, traceparent)
            if network is not None:
                connection.execute(
                    "UPDATE episodes SET network_sha256 = ?, network_size = ?"
                    " WHERE run_id = ? AND episode_index = ?",
                    (network.sha256, network.size, end.run_id, end.episode_index),
                )
            end_episode(connection, end)

    def end(self, end: EpisodeEnd) -> None:
        """Ends an episode before its horizon."""
        with self._database.transaction() as connection:
            end_episode(connection, end)


def _complete(
    connection: sqlite3.Connection,
    transition: Transition,
    event: StepCompleted,
    traceparent: str | None,
) -> None:
    run_id, episode_index, step = _key(transition.step_id)
    connection.execute(
        "UPDATE steps SET completed_at = ? WHERE run_id = ? AND episode_index = ? AND step = ?",
        (transition.completed_at.ToNanoseconds(), run_id, episode_index, step),
    )
    connection.execute(
        "UPDATE episodes SET steps = ? WHERE run_id = ? AND episode_index = ?",
        (step + 1, run_id, episode_index),
    )
    item = ExperienceItem(transition=transition, traceparent=traceparent)
    append_item(connection, run_id, episode_index, item)
    append_event(connection, run_id, WatchRunResponse(step_completed=event))


def _point_to(
    connection: sqlite3.Connection, run_id: str, episode_index: int, checkpoint: Checkpoint
) -> None:
    connection.execute(
        "INSERT INTO checkpoints (run_id, episode_index, step, path) VALUES (?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET step = excluded.step, path = excluded.path",
        (run_id, episode_index, checkpoint.step, checkpoint.path),
    )


def _key(step_id: StepId) -> tuple[str, int, int]:
    return step_id.run_id, step_id.episode_index, step_id.step


def _select(connection: sqlite3.Connection, run_id: str, episode_index: int) -> EpisodeRecord:
    row = connection.execute(
        "SELECT * FROM episodes WHERE run_id = ? AND episode_index = ?", (run_id, episode_index)
    ).fetchone()
    return _record(row)


def _record(row: sqlite3.Row) -> EpisodeRecord:
    values = {name: row[name] for name in EpisodeRecord.__dataclass_fields__}
    values["follows_registry"] = bool(row["follows_registry"])
    values["origin"] = EpisodeOrigin.FromString(row["origin"])
    return EpisodeRecord(**values)
