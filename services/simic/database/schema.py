"""The tables. Moments are microseconds since 1970; messages are stored as serialized protobuf.

What this module says and what the migrations make of an empty database is the same, and a test
holds it: after a change here, `make migration`.
"""

from __future__ import annotations

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
    # EpisodeOrigin; unset where the trainer did not say. Held out: no learner may learn from it.
    Column("origin", LargeBinary),
    Column("held_out", Boolean, nullable=False),
    Column("began_at", BigInteger, nullable=False),
    # Transitions stored from step 0 without a gap.
    Column("next_step", BigInteger, nullable=False),
    # From EpisodeEnd: how it ended (0: not yet), when, with how many steps, and what went wrong.
    Column("termination", Integer, nullable=False),
    Column("ended_at", BigInteger),
    Column("steps", BigInteger),
    Column("end_message", PlainText()),
    # Order in which episodes came to be both ended and without a gap. Unset before.
    Column("whole_sequence", BigInteger, unique=True),
    UniqueConstraint("run_id", "episode_index"),
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
    Index("transitions_by_version", "policy_version", "episode_id"),
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
    Column("artifact_sha256", ForeignKey(artifacts.c.sha256), nullable=False),
    Column("manifest", LargeBinary, nullable=False),
)

policy_events = Table(
    "policy_events",
    metadata,
    Column("sequence", RowNumber, primary_key=True),
    Column("time", BigInteger, nullable=False),
    Column("kind", PlainText(16), nullable=False),
    Column("policy_version", ForeignKey(policies.c.policy_version), nullable=False),
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
