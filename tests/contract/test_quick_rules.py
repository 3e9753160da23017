"""The quick look at the rules never lets pass what protovalidate refuses."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import protovalidate
import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contract.golden_snapshots import golden_snapshots
from tests.contract.invalid_messages import invalid_messages
from tests.contract.test_contract import inputs
from tests.simic import simulated

from chassis.quick_rules import is_known, surely_valid
from chassis.validation import violations
from leyline.v1.experience_pb2 import (
    ExperienceItem,
    RecordTransitionsRequest,
    StreamTransitionsRequest,
)
from leyline.v1.policy_pb2 import DecideRequest, StreamDecisionsRequest

OFTEN: list[Any] = [
    ExperienceItem,
    RecordTransitionsRequest,
    StreamTransitionsRequest,
    DecideRequest,
    StreamDecisionsRequest,
]
INPUTS = [
    GetMessageClass(descriptor)
    for descriptor in inputs().values()
    if descriptor.fields and not descriptor.GetOptions().map_entry
]

# What lies beside a bound of some rule.
DOUBLES = [math.nan, math.inf, -math.inf, -1e6 - 1, -1.0, -0.0, 0.5, 1.0, 1 + 1e-9, 1e6, 1e6 + 1]
INTEGERS = [0, 1, 2, 3, 4, 5, 64, 65, 1000, 1001, 10**9, 10**9 + 1, 2**31 - 1]
SECONDS = [-1, 0, 253402300799, 253402300800, 2**62]
TEXTS = ["", "a", "A", "-a", "slot-0", "a\n", "é", "\0", "a" * 63, "a" * 64, "f" * 64, "a" * 5000]


def items() -> Iterator[ExperienceItem]:
    for number, item in enumerate(simulated.items("run", 3, fence=1), 1):
        item.sequence = number
        yield item


def test_what_comes_often_is_found_to_be_valid_at_once() -> None:
    assert all(is_known(kind.DESCRIPTOR) for kind in OFTEN)
    assert all(map(surely_valid, items()))
    assert all(surely_valid(snapshot) for _, snapshot in golden_snapshots().values())


@pytest.mark.parametrize("name", invalid_messages())
def test_what_breaks_a_rule_is_not_found_to_be_valid(name: str) -> None:
    _, message, _ = invalid_messages()[name]
    assert not surely_valid(message)
    assert violations(message)


def test_a_snapshot_that_is_changed_is_looked_at_again() -> None:
    snapshot = simulated.transition("run", 0, 0).snapshot
    assert surely_valid(snapshot)
    snapshot.slots[1].alpha = 0.5
    assert not surely_valid(snapshot)
    snapshot.slots[1].alpha = 0.0
    assert surely_valid(snapshot)


@settings(max_examples=200)
@given(data=st.data())
def test_it_lets_nothing_pass_that_protovalidate_refuses(data: st.DataObject) -> None:
    message = data.draw(st.sampled_from([*items()][:2] + [*items()][-1:]))
    for _ in range(data.draw(st.integers(1, 3))):
        change(message, data)
    agree(message)


@settings(max_examples=200)
@given(data=st.data())
def test_it_lets_nothing_pass_of_any_message_that_a_service_takes(data: st.DataObject) -> None:
    message = data.draw(st.sampled_from(INPUTS))()
    for _ in range(data.draw(st.integers(0, 8))):
        change(message, data)
    agree(message)


def agree(message: Message) -> None:
    if surely_valid(message):
        assert protovalidate.collect_violations(message) == []


def change(message: Any, data: st.DataObject) -> None:
    """Change something somewhere in a message."""
    within = [message]
    while data.draw(st.integers(0, 4)) and (inner := list(submessages(within[-1]))):
        within.append(data.draw(st.sampled_from(inner)))
    changed = next(each for each in reversed(within) if each.DESCRIPTOR.fields)
    field = data.draw(st.sampled_from(list(changed.DESCRIPTOR.fields)))
    if is_map(field) or data.draw(st.integers(0, 3)) == 0:
        changed.ClearField(field.name)
    elif field.is_repeated:
        values = getattr(changed, field.name)
        for _ in range(data.draw(st.sampled_from([1, 5, 64]))):
            if field.message_type is None:
                values.append(data.draw(values_of(field)))
            elif len(values):
                values.add().CopyFrom(values[0])
            else:
                values.add()
    elif field.message_type is not None:
        getattr(changed, field.name).SetInParent()
    else:
        setattr(changed, field.name, data.draw(values_of(field)))


def submessages(message: Any) -> Iterator[Any]:
    for field, value in message.ListFields():
        if field.message_type is not None and not is_map(field):
            yield from value if field.is_repeated else [value]


def is_map(field: Any) -> bool:
    return bool(field.message_type is not None and field.message_type.GetOptions().map_entry)


def values_of(field: Any) -> st.SearchStrategy[Any]:
    if field.full_name in ("google.protobuf.Timestamp.seconds", "google.protobuf.Duration.seconds"):
        return st.sampled_from(SECONDS)
    kinds = {
        field.CPPTYPE_DOUBLE: st.sampled_from(DOUBLES),
        field.CPPTYPE_FLOAT: st.sampled_from(DOUBLES),
        field.CPPTYPE_BOOL: st.booleans(),
        field.CPPTYPE_STRING: st.sampled_from(TEXTS).map(
            lambda text: text.encode() if field.type == field.TYPE_BYTES else text
        ),
    }
    return kinds.get(field.cpp_type, st.sampled_from(INTEGERS))
