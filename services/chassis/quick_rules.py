"""A quick look at the contract's rules: it says of nearly every valid message that it is valid.

The rules are protovalidate's, read from the descriptors, and so is the last word: whatever is not
found to be in order here, or has a rule that is not known here, is protovalidate's to judge. But it
takes a hundred microseconds for a transition, mostly for its few rules in CEL, and there are none
to spare where each transition passes. Here a rule is a comparison in a Python function, written and
compiled once for each type of message; a test holds both to the same answers.
"""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from typing import Any, Literal, TypeAlias

import protovalidate
from google.protobuf import descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, OneofDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from leyline.rules import TIMES, is_possible_time

Check: TypeAlias = Callable[[Any], bool]

# Names of runs, slots and policies come again and again.
_REMEMBERED_TEXTS = 4096

# Rules in CEL, word by word, and the same in Python; `m` is the message, and what messages are
# repeated in it have their own names.
_CEL = {
    "has(this.slot_id) == (this.action_type != 1)": 'm.HasField("slot_id") == (m.action_type != 1)',
    "!has(this.slot_log_prob) || this.action_type != 1": (
        'm.action_type != 1 or not m.HasField("slot_log_prob")'
    ),
    "(this.result == 2) == (this.no_op_reason != 0)": "(m.result == 2) == (m.no_op_reason != 0)",
    "this.has_seed == (this.stage != 1)": "m.has_seed == (m.stage != 1)",
    "this.stage == 4 || (this.stage == 5 ? this.alpha == 1.0 : this.alpha == 0.0)": (
        "m.stage == 4 or m.alpha == (1.0 if m.stage == 5 else 0.0)"
    ),
    "this.slots.map(s, s.depth).unique()": "len({s.depth for s in slots}) == len(slots)",
    "this.slots.map(s, s.slot_id).unique()": "len({s.slot_id for s in slots}) == len(slots)",
    "this.snapshot.step_id == this.step_id": "m.snapshot.step_id == m.step_id",
    "this.next_snapshot.step_id.run_id == this.step_id.run_id"
    " && this.next_snapshot.step_id.episode_index == this.step_id.episode_index"
    " && this.next_snapshot.step_id.step == this.step_id.step + uint(1)": (
        "m.next_snapshot.step_id.run_id == m.step_id.run_id"
        " and m.next_snapshot.step_id.episode_index == m.step_id.episode_index"
        " and m.next_snapshot.step_id.step == m.step_id.step + 1"
    ),
    "this.termination != 1 || this.steps > uint(0)": "m.termination != 1 or m.steps > 0",
    "this.decider != 2 || (this.decision.action_type == 1 && !has(this.decision.type_log_prob)"
    " && !has(this.decision.log_prob) && !has(this.decision.policy_version))": (
        "m.decider != 2 or (m.decision.action_type == 1"
        ' and not m.decision.HasField("type_log_prob") and not m.decision.HasField("log_prob")'
        ' and not m.decision.HasField("policy_version"))'
    ),
}

# What is seen after a step is what is seen before the next one.
_OFTEN_THE_SAME = {"leyline.v1.MultiSlotSnapshot"}

_IGNORE_ALWAYS = 3  # buf.validate.Ignore
_LOWER = {"gt": "<", "gte": "<="}
_UPPER = {"lt": "<", "lte": "<="}

# Patterns that mean the same to Python as to RE2, but for the line's end, which is taken off.
_PLAIN_PATTERN = re.compile(r"\^[A-Za-z0-9\[\](){},._?*+-]*\$")


class _Unknown(Exception):
    """A rule that is not known here."""


def surely_valid(message: Message) -> bool:
    """Whether a message keeps every rule of its type; False where that cannot be said."""
    return _check_of(message.DESCRIPTOR)(message)


def is_known(descriptor: Descriptor) -> bool:
    """Whether every rule of a type, and of the types in it, is known here."""
    try:
        _Writer(descriptor).write()
    except _Unknown:
        return False
    inner = (field.message_type for field in descriptor.fields)
    return all(is_known(each) for each in inner if each is not None and _is_ours(each))


@cache
def _check_of(descriptor: Descriptor) -> Check:
    try:
        check = _Writer(descriptor).write()
    except _Unknown:
        return lambda _: False
    return _remembering(check) if descriptor.full_name in _OFTEN_THE_SAME else check


def _is_ours(descriptor: Descriptor) -> bool:
    return descriptor.file.package.startswith("leyline.")


class _Writer:
    """Writes the function that checks one type of message."""

    def __init__(self, descriptor: Descriptor) -> None:
        self._descriptor = descriptor
        self._lines = ["def check(m):"]
        self._names: dict[str, Any] = {"isfinite": math.isfinite}

    def write(self) -> Check:
        """The function.

        Raises:
            _Unknown: there is a rule that is not known.
        """
        for field in self._descriptor.fields:
            if field.is_repeated and field.message_type and not _is_map(field):
                # Each look at them makes them anew.
                self._lines.append(f"    {field.name} = [*m.{field.name}]")
        for rule, value in _rules(self._descriptor, "Message").ListFields():
            if rule.name != "cel":
                raise _Unknown(rule.name)
            for each in value:
                if each.expression not in _CEL:
                    raise _Unknown(each.expression)
                self._refuse_unless(_CEL[each.expression])
        for oneof in self._descriptor.oneofs:
            if _rules(oneof, "Oneof").required:
                self._refuse_unless(f'm.WhichOneof("{oneof.name}")')
        for field in self._descriptor.fields:
            self._field(field, _rules(field, "Field"))
        source = "\n".join([*self._lines, "    return True"])
        exec(compile(source, f"<rules of {self._descriptor.full_name}>", "exec"), self._names)
        check: Check = self._names["check"]
        return check

    def _refuse_unless(self, condition: str, indent: int = 1) -> None:
        self._lines.append(f"{'    ' * indent}if not ({condition}): return False")

    def _name(self, value: object) -> str:
        name = f"n{len(self._names)}"
        self._names[name] = value
        return name

    def _field(self, field: FieldDescriptor, rules: Any) -> None:
        _refuse_others(rules, {"required", "ignore", rules.WhichOneof("type") or ""})
        if rules.ignore == _IGNORE_ALWAYS:
            return
        if rules.ignore or keyword.iskeyword(field.name):
            raise _Unknown(field.name)
        value = f"m.{field.name}"
        if field.is_repeated:
            if rules.required:
                self._refuse_unless(value)
            self._repeated(field, rules, value)
            return
        is_set = f'm.HasField("{field.name}")' if field.has_presence else value
        conditions = self._conditions(field, rules, "v")
        if rules.required:
            self._refuse_unless(is_set)
        elif conditions and field.has_presence and not self._hold_unset(field, conditions):
            self._lines += [f"    if {is_set}:", f"        v = {value}"]
            self._refuse_unless(conditions, 2)
            return
        if conditions:
            self._lines.append(f"    v = {value}")
            self._refuse_unless(conditions)

    def _hold_unset(self, field: FieldDescriptor, conditions: str) -> bool:
        """Whether a field that is not set passes as if it was: nobody need ask whether it is."""
        if field.message_type:
            return False
        return bool(eval(conditions, dict(self._names), {"v": field.default_value}))

    def _repeated(self, field: FieldDescriptor, rules: Any, value: str) -> None:
        items = rules.repeated.items
        if _is_map(field):
            entry: Any = field.message_type
            if rules.HasField("map") or entry.fields_by_name["value"].message_type:
                raise _Unknown(field.name)
            return
        _refuse_others(rules.repeated, {"min_items", "max_items", "items"})
        _refuse_others(items, {"ignore", items.WhichOneof("type") or ""})
        if rules.repeated.HasField("min_items"):
            self._refuse_unless(f"len({value}) >= {rules.repeated.min_items}")
        if rules.repeated.HasField("max_items"):
            self._refuse_unless(f"len({value}) <= {rules.repeated.max_items}")
        if items.ignore == _IGNORE_ALWAYS:
            return
        if items.ignore:
            raise _Unknown(field.name)
        if conditions := self._conditions(field, items, "v"):
            self._lines.append(f"    for v in {field.name if field.message_type else value}:")
            self._refuse_unless(conditions, 2)

    def _conditions(self, field: FieldDescriptor, rules: Any, value: str) -> str:
        """What a value of the field must be, in Python; empty where it may be anything."""
        kind = rules.WhichOneof("type")
        if field.message_type:
            conditions = _bounded_time(rules.timestamp) if kind == "timestamp" else []
            if field.message_type.full_name in TIMES:
                conditions.append(f"{self._name(is_possible_time)}({value})")
            if kind not in (None, "timestamp"):
                raise _Unknown(kind)
            if _is_ours(field.message_type):
                check = self._name(_check_of(field.message_type))
                conditions.append(f"{check}({value})")
            return " and ".join(conditions)
        if kind is None:
            return ""
        return " and ".join(self._scalar(field, kind, getattr(rules, kind), value))

    def _scalar(self, field: FieldDescriptor, kind: str, rules: Any, value: str) -> Iterator[str]:
        given = {rule.name: bound for rule, bound in rules.ListFields()}
        bounds = {name: given.pop(name) for name in (*_LOWER, *_UPPER) if name in given}
        low, high = bounds.get("gte", bounds.get("gt")), bounds.get("lte", bounds.get("lt"))
        if low is not None and high is not None and not low < high:
            raise _Unknown("a range that excludes its middle")
        left = "".join(
            f"{bounds[name]!r} {sign} " for name, sign in _LOWER.items() if name in bounds
        )
        right = "".join(
            f" {sign} {bounds[name]!r}" for name, sign in _UPPER.items() if name in bounds
        )
        if bounds:
            yield f"{left}{value}{right}"
        if given.pop("finite", False) and (low is None or high is None):
            yield f"isfinite({value})"
        if kind == "enum":
            allowed = set(field.enum_type.values_by_number) if field.enum_type else set()
            if not given.pop("defined_only", False):
                raise _Unknown("an enum of any number")
            yield f"{value} in {self._name(frozenset(allowed - set(given.pop('not_in', ()))))}"
        if "const" in given:
            yield f"{value} == {given.pop('const')!r}"
        if "min_len" in given:
            yield f"len({value}) >= {given.pop('min_len')}"
        if "max_len" in given:
            yield f"len({value}) <= {given.pop('max_len')}"
        if kind == "string" and "pattern" in given:
            yield f"{self._name(_matcher(given.pop('pattern')))}({value})"
        if given:
            raise _Unknown(str(given))


def _remembering(check: Check) -> Check:
    """The same check, which knows the last valid message again by its bytes."""
    last = b""

    def remembering(message: Message) -> bool:
        nonlocal last
        found = message.SerializeToString()
        if found == last:
            return True
        if not check(message):
            return False
        last = found
        return True

    return remembering


def _refuse_others(rules: Message, known: set[str]) -> None:
    for rule, _ in rules.ListFields():
        if rule.name not in known:
            raise _Unknown(rule.name)


def _is_map(field: FieldDescriptor) -> bool:
    return bool(field.message_type and field.message_type.GetOptions().map_entry)


def _bounded_time(rules: Any) -> list[str]:
    _refuse_others(rules, {"gte", "lte"})
    conditions = []
    if rules.HasField("gte"):
        conditions.append(f"v.seconds > {rules.gte.seconds}")
    if rules.HasField("lte"):
        conditions.append(f"v.seconds < {rules.lte.seconds}")
    return conditions


def _matcher(pattern: str) -> Callable[[str], object]:
    if not _PLAIN_PATTERN.fullmatch(pattern):
        raise _Unknown(pattern)
    return lru_cache(_REMEMBERED_TEXTS)(re.compile(pattern[1:-1], re.ASCII).fullmatch)


def _rules(
    described: Descriptor | OneofDescriptor | FieldDescriptor,
    what: Literal["Message", "Oneof", "Field"],
) -> Any:
    """The rules of a message, a oneof or a field, which its options hold as unread bytes."""
    options = GetMessageClass(_pool().FindMessageTypeByName(f"google.protobuf.{what}Options"))
    extension = _pool().FindExtensionByName(f"buf.validate.{what.lower()}")
    parsed: Any = options.FromString(described.GetOptions().SerializeToString())
    return parsed.Extensions[extension]


@cache
def _pool() -> DescriptorPool:
    """Descriptors of the rules, which the stubs' own pool does not have."""
    pool = DescriptorPool()
    for module in (descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(protovalidate.ViolationPb.desc().file.proto.to_binary())
    return pool
