"""Items held to the contract, and ready to be stored: all that needs no look at the database."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from chassis.errors import Violation
from chassis.validation import violations
from leyline.v1.experience_pb2 import ExperienceItem


@dataclass(frozen=True, slots=True)
class CheckedItem:
    """An item, and what has been found out about it.

    Attributes:
        broken: the rules of the contract that it breaks.
        payload: the transition as it is stored; empty for the end of an episode.
        digest: SHA-256 of the payload.
    """

    item: ExperienceItem
    broken: Sequence[Violation]
    payload: bytes
    digest: bytes


def check(items: Iterable[ExperienceItem]) -> list[CheckedItem]:
    """Check items, in their order."""
    return [_check(item) for item in items]


def _check(item: ExperienceItem) -> CheckedItem:
    payload = b""
    if item.HasField("transition"):
        payload = item.transition.SerializeToString(deterministic=True)
    return CheckedItem(item, violations(item), payload, hashlib.sha256(payload).digest())
