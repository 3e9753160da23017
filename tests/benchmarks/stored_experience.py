"""What Simic's questions about a million stored transitions cost.

``python -m tests.benchmarks.stored_experience --dir DIRECTORY`` makes the database there, unless it
is there already, and prints the median time of several askings of each question.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Connection, insert
from tests.simic.episodes import Script

from leyline.v1.decision_pb2 import ActionType
from leyline.v1.episode_pb2 import EpisodeOrigin, Seeds
from leyline.v1.experience_pb2 import ListEpisodesRequest
from simic.database import moment, schema
from simic.database.backup import Backups
from simic.database.database import Database, sqlite_url
from simic.database.restore import BackupFile
from simic.experience import ends
from simic.experience.abandonment import Abandonment
from simic.experience.integrity import Integrity
from simic.experience.ledger import ROW_BYTES
from simic.experience.reading import ExperienceReader
from simic.experience.retention import Retention
from simic.experience.tally import Action, Tally
from simic.learning.needs import of_trainings

TRANSITIONS = 1_000_000
HORIZON = 25
RUNS = 20
EPISODES_A_VERSION = 8
EPISODES_A_COMMIT = 400
EPISODES_PLAYED = 64
VALIDATION_IMAGES = 10_000
ASKINGS = 7
SEEDS = ("situation", "data", "initialization", "order", "augmentation", "blueprint")


def fill(database: Database, count: int) -> None:
    """Store transitions until there are ``count``, in whole episodes of several runs and versions.

    The steps within the messages are those of a few episodes, over and over.
    """
    random = np.random.default_rng(0)
    played = [_played(random) for _ in range(EPISODES_PLAYED)]
    there = ExperienceReader(database).statistics("").episodes
    for first in range(there, count // HORIZON, EPISODES_A_COMMIT):
        with database.write() as connection:
            for number in range(first, min(first + EPISODES_A_COMMIT, count // HORIZON)):
                _store(connection, number, played[number % EPISODES_PLAYED])


def _played(random: np.random.Generator) -> list[dict[str, Any]]:
    kinds, slots = random.integers(1, 5, HORIZON), random.integers(0, 3, HORIZON)
    actions = [
        (ActionType.ValueType(int(kind)), None if kind == 1 else int(slot))
        for kind, slot in zip(kinds, slots, strict=True)
    ]
    rows: list[dict[str, Any]] = []
    script = Script(accuracies=[0.01 * step for step in range(HORIZON + 1)], actions=actions)
    for step in script.transitions():
        step.facts.validation_correct = random.bytes(VALIDATION_IMAGES // 8)
        payload = step.SerializeToString(deterministic=True)
        rows.append(
            {
                "step": step.step_id.step,
                "action_type": step.decision.action_type,
                "slot_id": step.decision.slot_id or None,
                "no_op_reason": 0,
                "decider": step.decider,
                "digest": hashlib.sha256(payload).digest(),
                "payload": payload,
            }
        )
    return rows


def _store(connection: Connection, number: int, played: list[dict[str, Any]]) -> None:
    episode, now = number + 1, moment.now()
    run, version = f"run-{number % RUNS}", f"slot-shared-{number // EPISODES_A_VERSION:012x}"
    script = Script(run, number // RUNS, version, range(HORIZON + 1))
    begin = script.begin()
    connection.execute(
        insert(schema.episodes).values(
            id=episode,
            **{name: getattr(begin, name) for name in ("run_id", "episode_index", "policy")},
            **{name: getattr(begin, name) for name in ("mode", "horizon", "slots")},
            spec_fingerprint=begin.spec_fingerprint,
            follows_registry=True,
            policy_version=version,
            decided_by=version,
            held_out=False,
            fence=1,
            origin=EpisodeOrigin(seeds=Seeds(**dict.fromkeys(SEEDS, 2**63))).SerializeToString(),
            began_at=now,
            heard_at=now,
            next_step=HORIZON,
            stored=HORIZON,
            stored_bytes=sum(len(row["payload"]) + ROW_BYTES for row in played),
            whole_sequence=episode,
            **ends.trainers(script.end()),
        )
    )
    rows = [{**row, "episode_id": episode, "policy_version": version} for row in played]
    connection.execute(insert(schema.transitions), rows)
    tally = Tally()
    for row in played:
        action = Action(run, row["decider"], row["action_type"], row["slot_id"] or "")
        tally.count(episode, action, version, steps=1, no_ops=0)
    tally.add_to(connection)


def questions(database: Database) -> Iterator[tuple[str, Callable[[], object]]]:
    """What is asked, and how."""
    reader = ExperienceReader(database)
    oldest = f"slot-shared-{0:012x}"
    yield "GetStatistics", lambda: reader.statistics("")
    yield "GetStatistics of a run", lambda: reader.statistics("run-3")
    for what, request in (
        ("", ListEpisodesRequest()),
        (", 1000 a page", ListEpisodesRequest(page_size=1000)),
        (" of a run", ListEpisodesRequest(run_id="run-3")),
        (" of the oldest version", ListEpisodesRequest(policy_version=oldest)),
        (", the last page", ListEpisodesRequest(page_token="40")),
        (" of no run", ListEpisodesRequest(run_id="nobody")),
    ):
        yield f"ListEpisodes{what}", lambda request=request: reader.page(request)  # type: ignore[misc]
    yield "a look for silent episodes", Abandonment(database, 86_400).look
    for what, days, size in (("too old", 10_000, 0), ("too much, all of it", 0, 1)):
        yield f"a look for what is {what}", Retention(database, days, size, [of_trainings]).due


def whole(database: Database, directory: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """What is done with all of it, once, in this order."""
    with tempfile.TemporaryDirectory(dir=directory) as name:
        place = Path(name)
        with Backups(database, place).begin() as copy:
            yield "a backup", copy.make
            restored = Database(sqlite_url(place))
            yield "its restore", partial(BackupFile(copy.path).restore, restored)
        integrity = Integrity(restored)
        integrity.open()
        yield "the check of what was restored", lambda: asyncio.run(integrity.run())
        restored.close()


def main() -> None:
    """Make the database where it is missing, and ask."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, default=Path("build/stored-experience"))
    parser.add_argument("--transitions", type=int, default=TRANSITIONS)
    parser.add_argument("--whole", action="store_true", help="also back up, restore and check all")
    arguments = parser.parse_args()
    arguments.dir.mkdir(parents=True, exist_ok=True)
    database = Database(sqlite_url(arguments.dir))
    reader = ExperienceReader(database)
    fill(database, arguments.transitions)
    stored = reader.statistics("")
    print(f"{stored.transitions:,} transitions, {stored.stored_bytes / 1e9:.2f} GB")
    for name, ask in questions(database):
        seconds = []
        for _ in range(ASKINGS):
            started = time.perf_counter()
            ask()
            seconds.append(time.perf_counter() - started)
        median, best = 1000 * statistics.median(seconds), 1000 * min(seconds)
        print(f"{name:38} {median:7.1f} ms, at best {best:7.1f} ms")
    for name, do in whole(database, arguments.dir) if arguments.whole else ():
        started, cpu = time.perf_counter(), time.process_time()
        do()
        lasted, busy = time.perf_counter() - started, time.process_time() - cpu
        print(f"{name:38} {lasted:7.1f} s, {busy:7.1f} s of a processor")


if __name__ == "__main__":
    main()
