"""A run of the journal as the contract's message."""

from __future__ import annotations

from kasmina.runs.run_log import RunRecord
from leyline.v1.trainer_pb2 import Run


def run_message(record: RunRecord) -> Run:
    """The run as callers see it."""
    message = Run(
        run_id=record.run_id,
        spec=record.spec,
        state=record.state,
        status_message=_status(record),
        episodes_ended=record.episodes_ended,
        steps_completed=record.steps_completed,
        last_sequence=record.last_sequence,
        outbox_depth=record.outbox_depth,
        compute=record.compute,
        driven=record.driven,
    )
    message.created_at.FromNanoseconds(record.created_at)
    if record.started_at is not None:
        message.started_at.FromNanoseconds(record.started_at)
    if record.ended_at is not None:
        message.ended_at.FromNanoseconds(record.ended_at)
    return message


def _status(record: RunRecord) -> str:
    """The status, and how many items the experience service has refused: they are kept, but
    somebody should look.
    """
    if not record.refused_items:
        return record.status_message
    refused = f"the experience service refused {record.refused_items} items"
    return "; ".join(filter(None, (record.status_message, refused)))
