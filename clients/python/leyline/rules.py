"""The contract's own rules (protovalidate), as anybody can check them before a service does."""

from __future__ import annotations

from collections.abc import Sequence

import protovalidate
from google.protobuf.message import Message

from leyline.error import Violation


def violations(message: Message) -> tuple[Violation, ...]:
    """List the rules that a message breaks, in the order of its fields; none for a valid one."""
    return tuple(
        Violation(field_path(broken), broken.proto.message or broken.proto.rule_id)
        for broken in protovalidate.collect_violations(message)
    )


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
