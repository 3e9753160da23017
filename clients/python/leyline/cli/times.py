"""Points in time on the command line."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import typer
from google.protobuf.timestamp_pb2 import Timestamp

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

FORMS = "2026-01-31, 2026-01-31T12:00 (UTC unless it says otherwise), or how long ago: 90m, 12h, 7d"


def point_in_time(text: str) -> Timestamp:
    """Return the moment that a date, a time or an age names.

    Raises:
        typer.BadParameter: it names none.
    """
    age = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)([smhd])", text)
    try:
        if age is not None:
            moment = datetime.now(UTC) - timedelta(**{_UNITS[age[2]]: float(age[1])})
        else:
            moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        stamp = Timestamp()
        stamp.FromDatetime(moment)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is no time; write {FORMS}") from None
    if stamp.seconds < 0:
        raise typer.BadParameter(f"{text!r} is before 1970")
    return stamp
