"""Messages of any type, valid or not, as hypothesis draws them from the contract itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

Kind = TypeVar("Kind", bound=Message)

_DEPTH = 4
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
}


def messages(kind: type[Kind], depth: int = _DEPTH) -> st.SearchStrategy[Kind]:
    """Messages with any of their fields set to anything that its type can hold."""
    descriptors: Sequence[Any] = kind.DESCRIPTOR.fields
    fields = {
        field.name: _field(field, depth)
        for field in descriptors
        if depth > 0 or field.message_type is None
    }
    return st.fixed_dictionaries({}, optional=fields).map(lambda values: kind(**values))


def _field(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    values = st.deferred(lambda: _value(field, depth))
    return st.lists(values, max_size=3) if field.is_repeated else values


def _value(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return messages(GetMessageClass(field.message_type), depth - 1)
    if field.enum_type is not None:
        known = [value.number for value in field.enum_type.values]
        return st.sampled_from(known) | _INTEGERS[FieldDescriptor.CPPTYPE_INT32]
    if field.cpp_type in _INTEGERS:
        return st.integers(0, 3) | _INTEGERS[field.cpp_type]
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT:
        return st.floats(width=32)
    if field.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE:
        return st.floats()
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=20)
    return st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
