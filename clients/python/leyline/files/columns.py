"""The columns of experience in Parquet: for people who analyse, and for whoever imports it again.

`docs/experience-files.md` shows them; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from typing import Any

import pyarrow as pa
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from leyline.client import Episode
from leyline.filling import enum_prefix
from leyline.v1.experience_pb2 import EpisodeHead
from leyline.v1.snapshot_pb2 import SlotReading
from leyline.v1.transition_pb2 import EpisodeEnd, Transition

HEAD, STEP, END = "episode_head", "transition", "episode_end"
"""The columns that an import reads; it reads no other."""
OBSERVATION = "observation"
VECTOR = pa.list_(pa.float32())

_TEXT, _WHOLE, _COUNT, _NUMBER = pa.string(), pa.int64(), pa.uint64(), pa.float64()
_TRUTH, _MOMENT = pa.bool_(), pa.timestamp("us", tz="UTC")

Read = Callable[[Any], Any]


@dataclass(frozen=True)
class Column:
    """One column."""

    name: str
    type: pa.DataType
    meaning: str
    read: Read

    @property
    def field(self) -> pa.Field:
        """The column as Arrow describes it; its meaning goes along."""
        return pa.field(self.name, self.type, metadata={"meaning": self.meaning})


@cache
def name_of(kind: EnumDescriptor, number: int) -> str | None:
    """Return the name of an enum's value as people write it: `HORIZON`; None for UNSPECIFIED, and
    the number where this release has no name for it.
    """
    value = kind.values_by_number.get(number)
    if value is None:
        return str(number)
    return str(value.name).removeprefix(enum_prefix(kind)) if number else None


def _reader(kind: Descriptor, path: str) -> Read:
    """Return what reads a field of a message: None where it, or a message around it, is unset."""
    first, _, rest = path.partition(".")
    field = kind.fields_by_name[first]
    if rest:
        assert field.message_type is not None, path
        read = _reader(field.message_type, rest)
    else:
        read = _plain(field)
    get = attrgetter(first)
    if not field.has_presence:
        return lambda message: read(get(message))
    return lambda message: read(get(message)) if message.HasField(first) else None


def _plain(field: FieldDescriptor) -> Read:
    """Return what makes a plain value of a field's: a name, microseconds since 1970, seconds."""
    kind, enum = field.message_type, field.enum_type
    if enum is not None:
        return lambda number: name_of(enum, number)
    if kind is None:
        return lambda value: value
    if kind.full_name == "google.protobuf.Timestamp":
        return lambda moment: moment.ToMicroseconds()
    return lambda duration: duration.ToNanoseconds() / 1e9


def _head(path: str) -> Read:
    read = _reader(EpisodeHead.DESCRIPTOR, path)
    return lambda episode: read(episode.head)


def _end(path: str) -> Read:
    read = _reader(EpisodeEnd.DESCRIPTOR, path)
    return lambda episode: None if episode.end is None else read(episode.end)


def _step(path: str) -> Read:
    return _reader(Transition.DESCRIPTOR, path)


_READING = {
    name: (kind, _reader(SlotReading.DESCRIPTOR, name))
    for name, kind in (
        ("slot_id", _TEXT),
        ("depth", _WHOLE),
        ("stage", _TEXT),
        ("alpha", _NUMBER),
        ("epochs_in_stage", _WHOLE),
        ("gradient_norm", _NUMBER),
        ("activation_sparsity", _NUMBER),
        ("seed_improvement", _NUMBER),
        ("seed_cost", _NUMBER),
        ("gradmax_norm", _NUMBER),
        ("ablation_delta", _NUMBER),
    )
}
_SLOTS = pa.list_(pa.struct([(name, kind) for name, (kind, _) in _READING.items()]))


def _slots(step: Transition) -> list[dict[str, Any]]:
    by_depth = sorted(step.snapshot.slots, key=attrgetter("depth"))
    return [{name: read(slot) for name, (_, read) in _READING.items()} for slot in by_depth]


def _message(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


def _end_message(episode: Episode) -> bytes | None:
    return None if episode.end is None else _message(episode.end)


OF_EPISODES = (
    Column("run_id", _TEXT, "run", _head("run_id")),
    Column("episode_index", _WHOLE, "episode within the run, from 0", _head("episode_index")),
    Column("policy", _TEXT, "name of the policy that the episode began with", _head("policy")),
    Column(
        "pinned_version", _TEXT, "version that the episode is pinned to", _head("policy_version")
    ),
    Column("horizon", _WHOLE, "steps that it was begun for", _head("horizon")),
    Column("slot_count", _WHOLE, "slots that the host has", _head("slots.exactly")),
    Column(
        "spec_fingerprint", _TEXT, "fingerprint of the observation spec", _head("spec_fingerprint")
    ),
    Column(
        "began_at",
        _MOMENT,
        "when the episode first began, by the service's clock",
        _head("began_at"),
    ),
    Column(
        "situation",
        _TEXT,
        "name of the range that its situation was drawn from",
        _head("origin.situation.range"),
    ),
    Column(
        "held_out", _TRUTH, "whether that range is held out", _head("origin.situation.held_out")
    ),
    Column("twin_run_id", _TEXT, "run of its twin, which only waits", _head("origin.twin.run_id")),
    Column("twin_episode_index", _WHOLE, "episode of its twin", _head("origin.twin.episode_index")),
    Column(
        "fork_run_id",
        _TEXT,
        "run of the episode that it was forked from",
        _head("origin.fork.parent.run_id"),
    ),
    Column("fork_episode_index", _WHOLE, "that episode", _head("origin.fork.parent.episode_index")),
    Column("fork_step", _WHOLE, "step of it at which the fork begins", _head("origin.fork.step")),
    Column(
        "evaluation_pair",
        _WHOLE,
        "pair of an evaluation that it belongs to",
        _head("origin.evaluation_pair"),
    ),
    Column(
        "termination",
        _TEXT,
        "HORIZON, CANCELLED, FAILED or ABANDONED; null while it goes on",
        _end("termination"),
    ),
    Column("episode_steps", _WHOLE, "steps that it has, once it has ended", _end("steps")),
    Column("ended_at", _MOMENT, "when it ended, by the trainer's clock", _end("ended_at")),
    Column("end_message", _TEXT, "what went wrong, for people", _end("message")),
    Column(HEAD, pa.binary(), "`EpisodeHead`", lambda episode: _message(episode.head)),
    Column(END, pa.binary(), "`EpisodeEnd`; null while it has not ended", _end_message),
)
"""What all rows of an episode have in common; read from an `Episode`."""

OF_STEPS = (
    Column("step", _WHOLE, "step within the episode, from 0", _step("step_id.step")),
    Column("decider", _TEXT, "POLICY, FALLBACK, CALLER or PLAN", _step("decider")),
    Column(
        "policy_version",
        _TEXT,
        "version that decided; null where no policy did",
        _step("decision.policy_version"),
    ),
    Column("decision_id", _TEXT, "name of the decision", _step("decision.decision_id")),
    Column("mode", _TEXT, "how the action was drawn: SAMPLED or GREEDY", _step("decision.mode")),
    Column("action_type", _TEXT, "WAIT, GERMINATE, ADVANCE or CULL", _step("decision.action_type")),
    Column("slot_id", _TEXT, "slot that was named; null on WAIT", _step("decision.slot_id")),
    Column(
        "type_log_prob", _NUMBER, "behaviour: ln P(type), nats", _step("decision.type_log_prob")
    ),
    Column(
        "slot_log_prob",
        _NUMBER,
        "behaviour: ln P(slot given type), nats; null on WAIT",
        _step("decision.slot_log_prob"),
    ),
    Column("log_prob", _NUMBER, "their sum, nats", _step("decision.log_prob")),
    Column(
        "value",
        _NUMBER,
        "the policy's own estimate of the return, in its own units",
        _step("decision.value"),
    ),
    Column("fallback_reason", _TEXT, "why no policy decided", _step("fallback_reason")),
    Column("execution", _TEXT, "EXECUTED or NO_OP", _step("execution.result")),
    Column(
        "no_op_reason",
        _TEXT,
        "why nothing was done; null where it was",
        _step("execution.no_op_reason"),
    ),
    Column(
        "blueprint", _TEXT, "blueprint of the seed that was put in", _step("execution.blueprint")
    ),
    Column("epoch", _WHOLE, "intervals trained before the step", _step("snapshot.epoch")),
    Column("global_step", _COUNT, "optimiser steps before it", _step("snapshot.global_step")),
    Column("train_loss", _NUMBER, "training loss before it, nats", _step("snapshot.train_loss")),
    Column("val_loss", _NUMBER, "validation loss before it, nats", _step("snapshot.val_loss")),
    Column(
        "val_accuracy",
        _NUMBER,
        "validation accuracy before it, fraction",
        _step("snapshot.val_accuracy"),
    ),
    Column(
        "best_val_accuracy",
        _NUMBER,
        "best validation accuracy so far, fraction",
        _step("snapshot.best_val_accuracy"),
    ),
    Column(
        "best_val_loss",
        _NUMBER,
        "lowest validation loss so far, nats",
        _step("snapshot.best_val_loss"),
    ),
    Column(
        "plateau_epochs",
        _WHOLE,
        "intervals since the best accuracy last rose",
        _step("snapshot.plateau_epochs"),
    ),
    Column(
        "time_left",
        _NUMBER,
        "share of the horizon that is still to come",
        _step("snapshot.time_left"),
    ),
    Column("size_ratio", _NUMBER, "parameters over the bare host's", _step("snapshot.size_ratio")),
    Column(
        "learning_rate",
        _NUMBER,
        "learning rate of the next optimiser step",
        _step("snapshot.learning_rate"),
    ),
    Column("slots", _SLOTS, "readings of the slots before it, from the input on", _slots),
    Column(
        "next_train_loss",
        _NUMBER,
        "training loss over its interval, nats",
        _step("next_snapshot.train_loss"),
    ),
    Column(
        "next_val_loss", _NUMBER, "validation loss after it, nats", _step("next_snapshot.val_loss")
    ),
    Column(
        "next_val_accuracy",
        _NUMBER,
        "validation accuracy after it, fraction",
        _step("next_snapshot.val_accuracy"),
    ),
    Column(
        "training_images",
        _COUNT,
        "training images seen in the interval",
        _step("facts.training_images"),
    ),
    Column(
        "validation_images",
        _COUNT,
        "images of the validation split",
        _step("facts.validation_images"),
    ),
    Column("duration_s", _NUMBER, "wall time of the interval, seconds", _step("facts.duration")),
    Column("parameters", _COUNT, "parameters of the grown network", _step("facts.parameters")),
    Column(
        "multiply_adds",
        _COUNT,
        "multiply-adds of one image's forward pass",
        _step("facts.multiply_adds"),
    ),
    Column(
        "multiply_adds_spent",
        _COUNT,
        "multiply-adds spent in the episode's intervals so far",
        _step("facts.multiply_adds_spent"),
    ),
    Column(
        "multiply_adds_bare",
        _COUNT,
        "multiply-adds of such an interval without any seed",
        _step("facts.multiply_adds_bare"),
    ),
    Column(
        "terminal",
        _TRUTH,
        "whether the episode came to its horizon with the step",
        _step("terminal"),
    ),
    Column(
        "completed_at",
        _MOMENT,
        "when the step was complete, by the trainer's clock",
        _step("completed_at"),
    ),
    Column(STEP, pa.binary(), "`Transition`", _message),
)
"""What a row says of its own step; read from a `Transition`."""

_VECTOR_MEANING = "what the policy's network saw before it; null where the spec is not known"
SCHEMA = pa.schema(
    [
        *(column.field for column in (*OF_EPISODES, *OF_STEPS)),
        pa.field(OBSERVATION, VECTOR, metadata={"meaning": _VECTOR_MEANING}),
    ]
)
REPEATED = [
    column.name
    for column in (*OF_EPISODES, *OF_STEPS)
    if column.name == HEAD
    or column.name == END
    or (column.type == _TEXT and column.name != "decision_id")
]
"""Columns in which few values come again and again: these are written as dictionaries."""
