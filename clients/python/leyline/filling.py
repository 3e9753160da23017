"""Fills a message from YAML by what the contract says of its fields; see `leyline.document`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from yaml import MappingNode, Node, ScalarNode, SequenceNode

_NOTHING = "tag:yaml.org,2002:null"
_TIMES = ("google.protobuf.Duration", "google.protobuf.Timestamp")
_FEW = 12
"""Names that are listed where none is close."""

_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, (1 << 64) - 1),
}
_FLOATS = (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)


@dataclass(frozen=True)
class Problem:
    """What is wrong in one place."""

    path: str
    """The field, `training.horizon`; empty for the whole."""
    text: str
    line: int | None = None
    """From 1; None where it stands in no line."""

    def within(self, source: str) -> str:
        """Say it, with the name of the file."""
        where = source if self.line is None else f"{source}:{self.line}"
        return f"{where}: {self.path}: {self.text}" if self.path else f"{where}: {self.text}"


class _Wrong(ValueError):
    """A value is not what its field takes."""


@dataclass
class Filling:
    """One message that is being filled, and what was found wrong on the way."""

    problems: list[Problem] = field(default_factory=list)
    _lines: dict[str, int | None] = field(default_factory=dict)

    def line_of(self, path: str) -> int | None:
        """Return the line of a field, or of the nearest one around it that was written; None for
        one that was changed from outside.
        """
        while path and path not in self._lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self._lines.get(path)

    def fill(self, message: Message, node: MappingNode, path: str = "") -> None:
        """Set what the mapping has."""
        fields: Any = message.DESCRIPTOR.fields
        known = {name: of for of in fields for name in (of.camelcase_name, of.name)}
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            here = f"{path}.{name}" if path else name
            self._note(here, key)
            if name not in known:
                self._complain(here, key, _unknown(name, [of.name for of in fields]))
                continue
            descriptor = known[name]
            here = f"{path}.{descriptor.name}" if path else descriptor.name
            self._note(here, key)
            if descriptor.name in seen:
                self._complain(here, key, "is given twice")
            elif not _is_nothing(value):
                seen.add(descriptor.name)
                self._set(message, descriptor, value, here)

    def _set(self, message: Message, of: FieldDescriptor, node: Node, path: str) -> None:
        if of.message_type is not None and of.message_type.GetOptions().map_entry:
            self._fill_map(getattr(message, of.name), of.message_type, node, path)
        elif of.is_repeated:
            self._fill_list(getattr(message, of.name), of, node, path)
        elif of.message_type is not None:
            inner = getattr(message, of.name)
            inner.SetInParent()  # an empty message is another thing than none
            self._fill_inner(inner, node, path)
        else:
            for value in self._scalar(of, node, path):
                setattr(message, of.name, value)

    def _fill_map(self, target: Any, entry: Descriptor, node: Node, path: str) -> None:
        if not isinstance(node, MappingNode):
            self._complain(path, node, "must be names and their values")
            return
        for key, value in node.value:
            here = f'{path}["{key.value}"]'
            self._note(here, key)
            if str(key.value) in target:
                self._complain(here, key, "is given twice")
                continue
            for item in self._scalar(entry.fields_by_name["value"], value, here):
                target[str(key.value)] = item

    def _fill_list(self, target: Any, of: FieldDescriptor, node: Node, path: str) -> None:
        if not isinstance(node, SequenceNode):
            self._complain(path, node, "must be a list: [...]")
            return
        for index, item in enumerate(node.value):
            here = f"{path}[{index}]"
            self._note(here, item)
            if of.message_type is not None:
                self._fill_inner(target.add(), item, here)
            else:
                target.extend(self._scalar(of, item, here))

    def _fill_inner(self, inner: Any, node: Node, path: str) -> None:
        if inner.DESCRIPTOR.full_name in _TIMES:
            try:
                inner.FromJsonString(node.value)
            except (ValueError, TypeError, AttributeError):
                self._complain(path, node, f"must be seconds, as in 5s, and not {_shown(node)}")
        elif isinstance(node, MappingNode):
            self.fill(inner, node, path)
        else:
            fields = ", ".join(known.name for known in inner.DESCRIPTOR.fields[:_FEW])
            self._complain(
                path, node, f"has fields of its own ({fields}), and is not {_shown(node)}"
            )

    def _scalar(self, of: FieldDescriptor, node: Node, path: str) -> list[Any]:
        """Return the value in a list, or an empty one where there is something wrong with it."""
        try:
            if not isinstance(node, ScalarNode):
                raise _Wrong(f"must be {_kind(of)}, and not {_shown(node)}")
            return [_value(of, str(node.value))]
        except _Wrong as wrong:
            self._complain(path, node, str(wrong))
            return []

    def _note(self, path: str, node: Node) -> None:
        self._lines[path] = _line(node)

    def _complain(self, path: str, node: Node, text: str) -> None:
        self.problems.append(Problem(path, text, _line(node)))


def enum_prefix(kind: EnumDescriptor) -> str:
    """Return what the names of an enum's values begin with: `SELECTION_MODE_`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind.name).upper() + "_"


def _unknown(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    instead = f"did you mean {' or '.join(close)}?" if close else f"there is {_listed(known)}"
    return f"there is no such field; {instead}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_FEW]) + (", ..." if len(names) > _FEW else "")


def _value(of: FieldDescriptor, text: str) -> Any:
    """Read a field's value. Raises `_Wrong`."""
    if of.enum_type is not None:
        return _enum_number(of.enum_type, text)
    try:
        if of.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return {"true": True, "false": False}[text.lower()]
        if of.cpp_type in _FLOATS:
            return float(text)
        if of.cpp_type in _INTEGERS:
            lowest, highest = _INTEGERS[of.cpp_type]
            number = int(text)
            if lowest <= number <= highest:
                return number
            raise _Wrong(f"must be {_kind(of)} from {lowest} to {highest}, and not {text}")
    except (KeyError, ValueError) as error:
        if isinstance(error, _Wrong):
            raise
        raise _Wrong(f"must be {_kind(of)}, and not {text!r}") from None
    # JSON writes what lies beyond 16 bits in two halves.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _enum_number(kind: EnumDescriptor, text: str) -> int:
    prefix = enum_prefix(kind)
    name = text.strip().upper().replace("-", "_")
    for full in (name, prefix + name):
        if full in kind.values_by_name:
            return int(kind.values_by_name[full].number)
    known = [
        value.name.removeprefix(prefix).lower().replace("_", "-")
        for value in kind.values
        if value.number != 0
    ]
    raise _Wrong(f"must be {' or '.join(known)}, and not {text!r}")


def _kind(of: FieldDescriptor) -> str:
    if of.enum_type is not None:
        return "a name"
    if of.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return "true or false"
    if of.cpp_type in _INTEGERS:
        return "a whole number"
    return "a number" if of.cpp_type in _FLOATS else "a text"


def _line(node: Node) -> int | None:
    return None if node.start_mark is None else int(node.start_mark.line) + 1


def _is_nothing(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.tag == _NOTHING


def _shown(node: Node) -> str:
    if isinstance(node, ScalarNode):
        return repr(node.value)
    return "a list" if isinstance(node, SequenceNode) else "fields"
