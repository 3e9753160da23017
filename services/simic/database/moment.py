"""Points in time as the database keeps them: whole microseconds since 1970, UTC."""

from __future__ import annotations

import time

from google.protobuf.timestamp_pb2 import Timestamp


def now() -> int:
    """This moment by the wall clock, in microseconds."""
    return time.time_ns() // 1_000


def to_proto(microseconds: int) -> Timestamp:
    """The moment as the contract sends it."""
    timestamp = Timestamp()
    timestamp.FromMicroseconds(microseconds)
    return timestamp


def from_proto(timestamp: Timestamp) -> int:
    """The moment as the database keeps it; parts of a microsecond are dropped."""
    return timestamp.ToMicroseconds()
