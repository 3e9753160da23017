"""What is wrong with a specification, field by field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chassis.errors import ErrorCode, LeylineError, Violation


@dataclass(frozen=True)
class Complaint:
    """One field that is to blame, and the reason that it is refused with.

    Attributes:
        facts: what the code's message names.
    """

    code: ErrorCode
    violation: Violation
    facts: Mapping[str, str] = field(default_factory=dict)

    def error(self) -> LeylineError:
        """The refusal for it alone."""
        return _error([self])


def invalid(where: str, description: str) -> Complaint:
    """A value that cannot be."""
    return Complaint(ErrorCode.INVALID_ARGUMENT, Violation(where, description))


def unknown(code: ErrorCode, kind: str, where: str, name: str, known: Sequence[str]) -> Complaint:
    """A name that there is not; `kind` is what the code's message calls it."""
    facts = {kind: name, "known": ", ".join(known)}
    return Complaint(code, Violation(where, code.spec.message.format_map(facts)), facts)


def refuse(complaints: Sequence[Complaint]) -> None:
    """Raises `LeylineError` with the first one's reason and all fields, if there are any."""
    if complaints:
        raise _error(complaints)


def _error(complaints: Sequence[Complaint]) -> LeylineError:
    first = complaints[0]
    violations = [complaint.violation for complaint in complaints]
    facts: dict[str, Any] = dict(first.facts)
    return LeylineError(first.code, violations=violations, **facts)
