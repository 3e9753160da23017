"""The tables. Moments are microseconds since 1970; messages are stored as serialized protobuf.

What this module says and what the migrations make of an empty database is the same, and a test
holds it: after a change here, `make migration`.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    UniqueConstraint,
    text,
)

from simic.database.text import PlainText

# Every constraint has a name, by which a later migration can change it.
metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    }
)

# SQLite gives out row numbers only for a column that is spelled INTEGER.
RowNumber = BigInteger().with_variant(Integer, "sqlite")

episodes = Table(
    "episodes",
    metadata,
    Column("id", RowNumber, primary_key=True),
    Column("run_id", PlainText(63), nullable=False),
    Column("episode_index", BigInteger, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("policy", PlainText(128), nullable=False),
    Column("follows_registry", Boolean, nullable=False),
    # The version that BeginEpisode pinned, and the one that took the first decision of a policy.
    Column("policy_version", PlainText(128)),
    Column("decided_by", PlainText(128)),
    Column("mode", Integer, nullable=False),
    Column("horizon", BigInteger, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("spec_fingerprint", PlainText(64), nullable=False),
    # The pair of an evaluation that it is played for: no learner may learn from it. Unset: of none.
    Column("evaluation_pair", BigInteger),
    # EpisodeOrigin; unset where the trainer did not say. Held out: no learner may learn from it.
    Column("origin", LargeBinary),
    Column("held_out", Boolean, nullable=False),
    # Its twin, which only waits, where the origin names one.
    Column("twin_run_id", PlainText(63)),
    Column("twin_episode_index", BigInteger),
    Column("began_at", BigInteger, nullable=False),
    # When it last began, or something of it was last stored, by this machine's clock.
    Column("heard_at", BigInteger, nullable=False),
    # Transitions that came from step 0 on without a gap; all that are stored, and what they take.
    Column("next_step", BigInteger, nullable=False),
    Column("stored", BigInteger, nullable=False),
    Column("stored_bytes", BigInteger, nullable=False),
    # From EpisodeEnd: how it ended (0: not yet), when, with how many steps, and what went wrong.
    Column("termination", Integer, nullable=False),
    Column("ended_at", BigInteger),
    Column("steps", BigInteger),
    Column("end_message", PlainText()),
    # Whether Simic concluded that end from silence: the trainer's next word takes it back.
    Column("provisional", Boolean, nullable=False),
    # When its transitions were deleted, because others need the room: that end is Simic's, too.
    Column("forgotten_at", BigInteger),
    # The trainer's own EpisodeEnd, where there is one and Simic's stands in for it.
    Column("overruled_end", LargeBinary),
    # Order in which episodes came to be both ended and without a gap. Unset before, and again where
    # an end is taken back; the number may then be another episode's: it orders, and names nothing.
    Column("whole_sequence", BigInteger, unique=True),
    UniqueConstraint("run_id", "episode_index"),
)


def _index(name: str, condition: str, *columns: Column[Any]) -> None:
    """An index of the rows for which a condition holds."""
    Index(name, *columns, sqlite_where=text(condition), postgresql_where=text(condition))


_index("episodes_of_evaluations", "evaluation_pair IS NOT NULL", episodes.c.policy_version)
_index("episodes_unsettled", "whole_sequence IS NULL", *episodes.c["whole_sequence", "heard_at"])
_index("episodes_stored", "stored > 0", episodes.c.heard_at)
_index(
    "episodes_by_twin",
    "twin_run_id IS NOT NULL",
    *episodes.c["twin_run_id", "twin_episode_index"],
)

transitions = Table(
    "transitions",
    metadata,
    Column("episode_id", ForeignKey(episodes.c.id), primary_key=True),
    Column("step", BigInteger, primary_key=True),
    Column("action_type", Integer, nullable=False),
    Column("slot_id", PlainText(63)),
    Column("no_op_reason", Integer, nullable=False),
    Column("decider", Integer, nullable=False),
    Column("policy_version", PlainText(128)),
    # SHA-256 of the payload, so that the same transition is known again without reading it.
    Column("digest", LargeBinary(32), nullable=False),
    Column("payload", LargeBinary, nullable=False),
)

openings = Table(
    "openings",
    metadata,
    # A row for each service that has the database open, or ended without closing it in good order.
    Column("id", RowNumber, primary_key=True),
    Column("opened_at", BigInteger, nullable=False),
)

# Stored steps are counted as they are stored: whoever asks how many there are need not look at all.
episode_versions = Table(
    "episode_versions",
    metadata,
    # Steps of an episode that a version decided; at least one.
    Column("episode_id", ForeignKey(episodes.c.id), primary_key=True),
    Column("policy_version", PlainText(128), primary_key=True),
    Column("steps", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

run_actions = Table(
    "run_actions",
    metadata,
    # Steps of a run with one decision; the slot's name is empty where it named none.
    Column("run_id", PlainText(63), primary_key=True),
    Column("decider", Integer, primary_key=True, autoincrement=False),
    Column("action_type", Integer, primary_key=True, autoincrement=False),
    Column("slot_id", PlainText(63), primary_key=True),
    Column("steps", BigInteger, nullable=False),
    Column("no_ops", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("sha256", PlainText(64), primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

policies = Table(
    "policies",
    metadata,
    Column("ordinal", RowNumber, primary_key=True),
    Column("policy_version", PlainText(128), nullable=False, unique=True),
    # The artifact may have been deleted as garbage; the version stays.
    Column("artifact_sha256", PlainText(64), nullable=False),
    # What it decides for. Slots unset: any number.
    Column("slots", Integer),
    Column("spec_fingerprint", PlainText(64), nullable=False),
    Column("manifest", LargeBinary, nullable=False),
    Index("policies_by_artifact", "artifact_sha256"),
)

policy_events = Table(
    "policy_events",
    metadata,
    Column("sequence", RowNumber, primary_key=True),
    Column("time", BigInteger, nullable=False),
    Column("kind", PlainText(16), nullable=False),
    Column("policy_version", ForeignKey(policies.c.policy_version), nullable=False),
    # Of an activation: whether it no longer stands, see simic.policies.activation.
    Column("rolled_back", Boolean, nullable=False),
    # The event as WatchPolicies sends it; a registration's manifest is not repeated here.
    Column("payload", LargeBinary, nullable=False),
    Index("policy_events_by_kind", "kind", "sequence"),
    Index("policy_events_by_version", "policy_version", "sequence"),
)

trainings = Table(
    "trainings",
    metadata,
    Column("id", RowNumber, primary_key=True),
    Column("training_id", PlainText(63), nullable=False, unique=True),
    Column("plan", LargeBinary, nullable=False),
    # What the plan says of whose episodes are learned from, and in what order.
    Column("deterministic", Boolean, nullable=False),
    Column("run_id", PlainText(63), nullable=False),
    Column("episodes_per_update", BigInteger, nullable=False),
    Column("lag", BigInteger, nullable=False),
    Column("state", Integer, nullable=False),
    Column("status_message", PlainText(), nullable=False),
    Column("stop_requested", Boolean, nullable=False),
    Column("updates", BigInteger, nullable=False),
    Column("episodes", BigInteger, nullable=False),
    Column("transitions", BigInteger, nullable=False),
    # The version to go on from, then the newest that it made. Unset until the learner has begun.
    Column("policy_version", PlainText(128)),
    # Weights and optimiser moments after the last update, as safetensors.
    Column("checkpoint", LargeBinary),
    Column("started_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
)

training_updates = Table(
    "training_updates",
    metadata,
    Column("training", ForeignKey(trainings.c.id), primary_key=True),
    # 0 is the version that the training began with; updates count from 1.
    Column("sequence", BigInteger, primary_key=True),
    Column("time", BigInteger, nullable=False),
    Column("policy_version", PlainText(128), nullable=False),
    Column("episodes", BigInteger, nullable=False),
    Column("transitions", BigInteger, nullable=False),
    Column("gradient_steps", BigInteger, nullable=False),
    Column("mean_return", Float, nullable=False),
    # JSON object of numbers by name.
    Column("diagnostics", PlainText(), nullable=False),
    # JSON list of what somebody should look at.
    Column("alarms", PlainText(), nullable=False),
    Index("training_updates_by_version", "policy_version"),
)

training_episodes = Table(
    "training_episodes",
    metadata,
    # An episode is a fresh batch's once, for ever and over all trainings.
    Column("episode_id", ForeignKey(episodes.c.id), primary_key=True),
    Column("training", ForeignKey(trainings.c.id), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Index("training_episodes_by_update", "training", "sequence"),
)

candidates = Table(
    "candidates",
    metadata,
    # A version that is to be evaluated, or is being evaluated, before it may become the active one.
    Column("id", RowNumber, primary_key=True),
    Column("training", ForeignKey(trainings.c.id), nullable=False),
    Column("policy_version", ForeignKey(policies.c.policy_version), nullable=False),
    # On how many pairs of episodes, and whether one of them has been handed out.
    Column("pairs", BigInteger, nullable=False),
    Column("begun", Boolean, nullable=False),
)
