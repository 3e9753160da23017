"""The contract's own rules (protovalidate), as anybody can check them before a service does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import protovalidate
from google.protobuf.message import Message

from leyline.error import Violation

TIMES: Final = ("google.protobuf.Timestamp", "google.protobuf.Duration")
IMPOSSIBLE_TIME: Final = "nanos must be less than a second, and of the seconds' sign"
_SECOND: Final = 1_000_000_000


def violations(message: Message) -> tuple[Violation, ...]:
    """List the rules that a message breaks, in the order of its fields; none for a valid one."""
    return (
        *(
            Violation(field_path(broken), broken.proto.message or broken.proto.rule_id)
            for broken in protovalidate.collect_violations(message)
        ),
        *(Violation(path, IMPOSSIBLE_TIME) for path in impossible_times(message)),
    )


def impossible_times(message: Message) -> Iterator[str]:
    """Paths of the timestamps and durations that protobuf itself forbids.

    Their nanoseconds are out of range, or of another sign than the seconds. protovalidate looks at
    neither (2.1), and whoever converts one gets an exception.
    """
    for field, value in message.ListFields():
        kind = field.message_type
        if kind is None or kind.GetOptions().map_entry:
            continue
        repeated = field.is_repeated
        for index, each in enumerate(value if repeated else [value]):
            path = f"{field.name}[{index}]" if repeated else field.name
            if kind.full_name in TIMES:
                if not is_possible_time(each):
                    yield path
            else:
                yield from (f"{path}.{inner}" for inner in impossible_times(each))


def is_possible_time(time: Any) -> bool:
    """Whether a timestamp or duration is one by protobuf's own definition."""
    if time.DESCRIPTOR.full_name == TIMES[0]:
        return bool(0 <= time.nanos < _SECOND)
    return bool(-_SECOND < time.nanos < _SECOND and time.seconds * time.nanos >= 0)


def field_path(broken: protovalidate.Violation) -> str:
    """Write the path of a field as people do: `slots[0].alpha`, `facts["name"]`; empty for the
    whole message.
    """
    elements: Sequence[protovalidate.FieldPathElementPb] = ()
    if broken.proto.field is not None:
        elements = broken.proto.field.elements
    path = ""
    for element in elements:
        path += f".{element.field_name}" if path else element.field_name
        subscript = element.subscript
        if subscript is not None:
            key = subscript.value
            path += f'["{key}"]' if isinstance(key, str) else f"[{key}]"
    return path
