"""The contract's own rules, checked where a message enters.

The rules stand in the ``.proto`` files (protovalidate) and come with the descriptors, so nothing
is written twice. Most messages are found to be valid by a quick look at them
(``chassis.quick_rules``); protovalidate itself says what is wrong with the others. Once is
affordable, twice is waste.
The interceptor checks every message; where the contract answers for each item of one, it says
IGNORE_ALWAYS there, and the servicer checks the items. A method that does so for every message of
its stream is marked with ``chassis.interceptor.checks_itself``.
"""

from __future__ import annotations

from dataclasses import replace

import protovalidate
from google.protobuf.message import Message

from chassis.errors import ErrorCode, LeylineError, Violation
from chassis.quick_rules import surely_valid
from leyline.rules import IMPOSSIBLE_TIME, field_path, impossible_times

# Whatever else a server speaks (health, reflection) has no rules of ours.
_PACKAGE = "leyline."


def violations(message: Message) -> tuple[Violation, ...]:
    """List the rules that a message breaks, in the order of its fields; none for a valid one.

    Raises:
        protovalidate.CompilationError: the contract itself holds a rule that makes no sense.
    """
    if surely_valid(message) or not message.DESCRIPTOR.file.package.startswith(_PACKAGE):
        return ()
    return (
        *(_violation(broken) for broken in protovalidate.collect_violations(message)),
        *(
            Violation(path, IMPOSSIBLE_TIME, rule="time.nanos")
            for path in impossible_times(message)
        ),
    )


def check(message: Message, within: str = "") -> None:
    """Refuse a message that breaks a rule.

    Args:
        message: what is checked.
        within: path of the message in the one that it came in, where that is not checked itself.

    Raises:
        LeylineError: INVALID_ARGUMENT, with every violation.
    """
    broken = violations(message)
    if broken:
        if within:
            broken = tuple(
                replace(violation, field=f"{within}.{violation.field}".rstrip("."))
                for violation in broken
            )
        raise LeylineError(ErrorCode.INVALID_ARGUMENT, violations=broken)


def _violation(broken: protovalidate.Violation) -> Violation:
    proto = broken.proto
    return Violation(field_path(broken), proto.message or proto.rule_id, rule=proto.rule_id)
