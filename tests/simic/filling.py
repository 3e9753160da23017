"""A database with as many transitions as are asked for, past the service: a million in a minute."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from typing import Any

from sqlalchemy import Connection, insert
from tests.simic import simulated

from leyline.v1.transition_pb2 import Termination, Transition
from simic.database.database import Database
from simic.database.schema import episodes, transitions

RUN = "filling"
EPISODES_A_COMMIT = 500


def fill(url: str, count: int) -> None:
    """Leave whole episodes in an empty database, ``count`` transitions in all."""
    database = Database(url)
    rows = _rows(count // simulated.HORIZON)
    while batch := list(islice(rows, EPISODES_A_COMMIT)):
        with database.write() as connection:
            connection.execute(insert(episodes), [episode for episode, _ in batch])
            _insert(connection, [step for _, steps in batch for step in steps])
    with database.write() as connection:
        if connection.dialect.name == "postgresql":
            # It counts the numbers that it gives out itself, and no others.
            connection.exec_driver_sql(
                "SELECT setval(pg_get_serial_sequence('episodes', 'id'), max(id)) FROM episodes"
            )
    database.close()


def _rows(count: int) -> Iterator[tuple[dict[str, Any], list[tuple[Any, ...]]]]:
    """Episodes, each with its steps, as rows."""
    templates = [simulated.transition(RUN, 0, step) for step in range(simulated.HORIZON)]
    begin = simulated.begin(RUN, 0)
    for index in range(count):
        number = index + 1
        yield (
            {
                "id": number,
                "run_id": RUN,
                "episode_index": index,
                "fence": 1,
                "policy": begin.policy,
                "follows_registry": begin.follows_registry,
                "decided_by": templates[0].decision.policy_version,
                "mode": begin.mode,
                "horizon": begin.horizon,
                "slots": begin.slots,
                "spec_fingerprint": begin.spec_fingerprint,
                "held_out": False,
                "began_at": number,
                "heard_at": number,
                "next_step": simulated.HORIZON,
                "stored": simulated.HORIZON,
                "stored_bytes": sum(len(template.SerializeToString()) for template in templates),
                "provisional": False,
                "termination": Termination.TERMINATION_HORIZON,
                "ended_at": number,
                "steps": simulated.HORIZON,
                "end_message": "",
                "whole_sequence": number,
            },
            [_step(number, index, template) for template in templates],
        )


def _step(episode: int, index: int, template: Transition) -> tuple[Any, ...]:
    for step_id in (template, template.snapshot, template.next_snapshot):
        step_id.step_id.episode_index = index
    payload = template.SerializeToString(deterministic=True)
    decision = template.decision
    return (
        episode,
        template.step_id.step,
        decision.action_type,
        decision.slot_id or None,
        template.execution.no_op_reason,
        template.decider,
        decision.policy_version,
        hashlib.sha256(payload).digest(),
        payload,
    )


def _insert(connection: Connection, rows: list[tuple[Any, ...]]) -> None:
    names = [column.name for column in transitions.c]
    if connection.dialect.name == "postgresql":
        cursor = connection.connection.cursor()
        with cursor.copy(f"COPY transitions ({', '.join(names)}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
    else:
        marks = ", ".join("?" * len(names))
        connection.exec_driver_sql(f"INSERT INTO transitions VALUES ({marks})", rows)
