"""One transaction's view of the episodes that a batch belongs to, and what it adds to them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import Connection, RowMapping, bindparam, func, select, tuple_, update

from chassis.errors import ErrorCode, LeylineError, Violation
from leyline.v1.transition_pb2 import EpisodeEnd, ExecutionResult, Termination, Transition
from simic.database import moment
from simic.database.schema import episodes, transitions
from simic.database.text import plain
from simic.experience import ends
from simic.experience.checking import CheckedItem
from simic.experience.tally import Action, Tally

ROW_BYTES = 256
"""What a transition takes beside its payload, about: its columns, and its share of the indexes."""

EpisodeKey: TypeAlias = tuple[str, int]
"""A run and the index of an episode in it."""


# Made once: to write these down anew for each commit would take longer than to carry them out.
_HIGHEST_STEP = (
    select(func.max(transitions.c.step))
    .where(transitions.c.episode_id == episodes.c.id)
    .scalar_subquery()
    .label("highest_step")
)
_EPISODES = select(episodes, _HIGHEST_STEP).where(
    tuple_(episodes.c.run_id, episodes.c.episode_index).in_(bindparam("keys", expanding=True))
)
_CHANGING = (
    *("heard_at", "decided_by", "next_step", "stored", "stored_bytes", "whole_sequence"),
    *ends.COLUMNS,
)
_UPDATE = (
    update(episodes)
    .where(episodes.c.id == bindparam("episode"))
    .values({name: bindparam(name) for name in _CHANGING})
)


class _Row(NamedTuple):
    """A row of the transitions, as the database's driver takes it."""

    episode_id: int
    step: int
    action_type: int
    slot_id: str | None
    no_op_reason: int
    decider: int
    policy_version: str | None
    digest: bytes
    payload: bytes


@dataclass
class _Episode:
    """An episode as it stands in the open transaction."""

    row: RowMapping
    # What its trainer said: what was concluded from its silence counts until it says more.
    end: EpisodeEnd | None
    decided_by: str | None
    highest_step: int
    added: int = 0
    added_bytes: int = 0
    digests: dict[int, bytes] = field(default_factory=dict)
    had_gap: bool = field(init=False)

    def __post_init__(self) -> None:
        self.had_gap = self.highest_step >= self.row["next_step"]

    @property
    def key(self) -> EpisodeKey:
        return self.row["run_id"], self.row["episode_index"]

    @property
    def is_forgotten(self) -> bool:
        """Whether it was stored once, and deleted to make room."""
        return self.row["forgotten_at"] is not None


class Ledger:
    """Takes valid items one by one, and writes what they add when it is closed."""

    def __init__(self, connection: Connection, loaded: Mapping[EpisodeKey, _Episode]) -> None:
        """Use ``open``."""
        self._connection = connection
        self._episodes = loaded
        self._rows: list[_Row] = []
        self._tally = Tally()
        self._touched: dict[int, _Episode] = {}

    @classmethod
    def open(cls, connection: Connection, items: Iterable[CheckedItem]) -> Ledger:
        """Load the episodes of ``items``, and the digests of those steps that are stored."""
        steps: dict[EpisodeKey, list[int]] = defaultdict(list)
        for checked in items:
            item = checked.item
            if item.HasField("transition"):
                step_id = item.transition.step_id
                steps[step_id.run_id, step_id.episode_index].append(step_id.step)
            else:
                steps[item.episode_end.run_id, item.episode_end.episode_index].extend(())
        loaded = _load_episodes(connection, steps)
        _load_digests(connection, loaded, steps)
        return cls(connection, loaded)

    def enter(self, checked: CheckedItem) -> None:
        """Add a valid item.

        Raises:
            LeylineError: the item must not be recorded.
        """
        if checked.item.HasField("transition"):
            self._enter_transition(checked)
        else:
            self._enter_end(checked.item.fence, checked.item.episode_end)

    def close(self) -> None:
        """Write what was added."""
        if self._rows:
            _insert(self._connection, self._rows)
            self._tally.add_to(self._connection)
        if self._touched:
            _update_episodes(self._connection, self._touched.values())

    def _episode(self, run_id: str, episode_index: int, fence: int) -> _Episode:
        episode = self._episodes.get((run_id, episode_index))
        # A fence above the current one was never given by this store: its sender has begun the
        # episode somewhere else.
        if episode is None or fence > episode.row["fence"]:
            raise LeylineError(
                ErrorCode.EPISODE_NOT_BEGUN, run_id=run_id, episode_index=episode_index
            )
        if fence < episode.row["fence"]:
            raise LeylineError(
                ErrorCode.STALE_FENCE, run_id=run_id, episode_index=episode_index, fence=fence
            )
        return episode

    def _enter_transition(self, checked: CheckedItem) -> None:
        transition = checked.item.transition
        step_id = transition.step_id
        episode = self._episode(step_id.run_id, step_id.episode_index, checked.item.fence)
        stored = episode.digests.get(step_id.step)
        if stored is not None:
            if stored != checked.digest and not self._is_stored(episode, transition):
                raise LeylineError(
                    ErrorCode.TRANSITION_CONFLICT,
                    run_id=step_id.run_id,
                    episode_index=step_id.episode_index,
                    step=step_id.step,
                )
            if not episode.row["termination"]:
                # Whoever plays it again is heard of before he comes to what is new.
                self._touched[episode.row["id"]] = episode
            return
        if episode.is_forgotten and step_id.step < episode.row["next_step"]:
            return
        _refuse_what_does_not_fit(episode, transition)
        episode.digests[step_id.step] = checked.digest
        episode.added += 1
        episode.added_bytes += len(checked.payload) + ROW_BYTES
        episode.highest_step = max(episode.highest_step, step_id.step)
        decision = transition.decision
        version = decision.policy_version if decision.HasField("policy_version") else None
        episode.decided_by = episode.decided_by or version
        self._touched[episode.row["id"]] = episode
        self._tally.count(
            episode.row["id"],
            Action(step_id.run_id, transition.decider, decision.action_type, decision.slot_id),
            version,
            steps=1,
            no_ops=transition.execution.result == ExecutionResult.EXECUTION_RESULT_NO_OP,
        )
        self._rows.append(
            _Row(
                episode_id=episode.row["id"],
                step=step_id.step,
                action_type=decision.action_type,
                slot_id=decision.slot_id if decision.HasField("slot_id") else None,
                no_op_reason=transition.execution.no_op_reason,
                decider=transition.decider,
                policy_version=None if version is None else plain(version),
                digest=checked.digest,
                payload=checked.payload,
            )
        )

    def _is_stored(self, episode: _Episode, transition: Transition) -> bool:
        """Whether the stored step says the same: in other bytes, as another release may write it,
        or at another time, as a trainer may that has lost its disk and plays the episode again.
        """
        pending = (
            row.payload
            for row in self._rows
            if row.episode_id == episode.row["id"] and row.step == transition.step_id.step
        )
        payload = (
            next(pending, None)
            or self._connection.execute(
                select(transitions.c.payload).where(
                    transitions.c.episode_id == episode.row["id"],
                    transitions.c.step == transition.step_id.step,
                )
            ).scalar_one()
        )
        return _timeless(Transition.FromString(payload)) == _timeless(transition)

    def _enter_end(self, fence: int, end: EpisodeEnd) -> None:
        episode = self._episode(end.run_id, end.episode_index, fence)
        if episode.end is not None:
            if (episode.end.termination, episode.end.steps) != (end.termination, end.steps):
                raise _episode_ended(episode.end)
            return
        if end.steps <= episode.highest_step:
            described = f"step {episode.highest_step} of the episode is stored"
            raise LeylineError(
                ErrorCode.INVALID_ARGUMENT, violations=[Violation("episode_end.steps", described)]
            )
        episode.end = end
        self._touched[episode.row["id"]] = episode


def _timeless(transition: Transition) -> Transition:
    """What happened, without when and how fast."""
    same = Transition()
    same.CopyFrom(transition)
    same.ClearField("completed_at")
    if same.HasField("facts"):  # to clear something of them makes them
        same.facts.ClearField("duration")
    return same


def _refuse_what_does_not_fit(episode: _Episode, transition: Transition) -> None:
    if episode.end is not None and transition.step_id.step >= episode.end.steps:
        raise _episode_ended(episode.end)
    expected = episode.row["spec_fingerprint"]
    if transition.spec_fingerprint != expected:
        raise LeylineError(
            ErrorCode.FINGERPRINT_MISMATCH, given=transition.spec_fingerprint, expected=expected
        )
    for snapshot in (transition.snapshot, transition.next_snapshot):
        if len(snapshot.slots) != episode.row["slots"]:
            raise LeylineError(
                ErrorCode.SLOT_COUNT_MISMATCH,
                given=len(snapshot.slots),
                expected=episode.row["slots"],
            )


def _end_for_good(row: RowMapping) -> EpisodeEnd | None:
    """The end of an episode of which nothing more is taken, whatever its trainer says."""
    return None if row["forgotten_at"] is None else ends.end_of(row)


def _episode_ended(end: EpisodeEnd) -> LeylineError:
    return LeylineError(
        ErrorCode.EPISODE_ENDED,
        run_id=end.run_id,
        episode_index=end.episode_index,
        termination=Termination.Name(end.termination),
        steps=end.steps,
    )


def _load_episodes(
    connection: Connection, keys: Iterable[EpisodeKey]
) -> dict[EpisodeKey, _Episode]:
    rows = connection.execute(_EPISODES, {"keys": list(keys)}).mappings()
    loaded = (
        _Episode(
            row=row,
            end=ends.trainers_end_of(row) or _end_for_good(row),
            decided_by=row["decided_by"],
            highest_step=-1 if row["highest_step"] is None else row["highest_step"],
        )
        for row in rows
    )
    return {episode.key: episode for episode in loaded}


def _load_digests(
    connection: Connection,
    loaded: Mapping[EpisodeKey, _Episode],
    steps: Mapping[EpisodeKey, Sequence[int]],
) -> None:
    for key, episode in loaded.items():
        # Mostly all of them are new, and follow what is stored.
        known = [step for step in steps[key] if step <= episode.highest_step]
        if known:
            rows = connection.execute(
                select(transitions.c.step, transitions.c.digest).where(
                    transitions.c.episode_id == episode.row["id"], transitions.c.step.in_(known)
                )
            )
            episode.digests.update({row.step: row.digest for row in rows})


def _insert(connection: Connection, rows: Sequence[_Row]) -> None:
    # By the driver alone: SQLAlchemy's way from a row to its parameters takes as long again.
    mark = "?" if connection.dialect.paramstyle == "qmark" else "%s"
    columns, marks = ", ".join(_Row._fields), ", ".join([mark] * len(_Row._fields))
    connection.exec_driver_sql(
        f"INSERT INTO {transitions.name} ({columns}) VALUES ({marks})", list(rows)
    )


def _update_episodes(connection: Connection, touched: Iterable[_Episode]) -> None:
    changed = [_changed(connection, episode) for episode in touched]
    whole = [each for each in changed if each["termination"] and each["steps"] == each["next_step"]]
    if whole:
        for sequence, values in enumerate(whole, ends.next_whole_sequence(connection)):
            values["whole_sequence"] = sequence
    connection.execute(_UPDATE, changed)


def _changed(connection: Connection, episode: _Episode) -> dict[str, Any]:
    """What an episode's row is to say."""
    return {
        "episode": episode.row["id"],
        "heard_at": moment.now(),
        "decided_by": episode.decided_by,
        "next_step": _count_without_gap(connection, episode),
        "stored": episode.row["stored"] + episode.added,
        "stored_bytes": episode.row["stored_bytes"] + episode.added_bytes,
        "whole_sequence": None,
        **ends.trainers(episode.end),
    }


def _count_without_gap(connection: Connection, episode: _Episode) -> int:
    next_step: int = episode.row["next_step"]
    if episode.had_gap:
        query = select(transitions.c.step).where(
            transitions.c.episode_id == episode.row["id"], transitions.c.step >= next_step
        )
        stored: Container[int] = set(connection.execute(query).scalars())
    else:
        stored = episode.digests
    while next_step in stored:
        next_step += 1
    return next_step
