"""What is asked of an implementation: cases, read from data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from typing import Any

import yaml


class Level(StrEnum):
    """How much is asked: FULL includes CORE."""

    CORE = "core"
    FULL = "full"


_DATA = files("leyline.conformance")
_QUERY = "leyline.v1.DecisionQuery"
_SNAPSHOT = "leyline.v1.MultiSlotSnapshot"


@dataclass(frozen=True)
class Case:
    """One thing that an implementation must do."""

    id: str
    """`section.name`; stable, for `--case` and for reports."""
    level: Level
    """`core` is what a trainer needs; `full` is what a service in production owes besides."""
    title: str
    """The promise, in one sentence."""
    means: str
    """What it means where the promise is broken, and what to look at."""
    check: str
    """Name of the function in `checks` that finds out."""
    parameters: Mapping[str, Any]
    """Its arguments."""


def load_cases(level: Level = Level.FULL) -> list[Case]:
    """Return the cases of a level, in the order in which they are run; `full` includes `core`."""
    cases = [
        *_section("handshake"),
        *_golden_snapshots(),
        *_section("decisions"),
        *_invalid_messages(),
        *_section("streams"),
        *_section("limits"),
        *_section("security"),
        *_section("operations"),
    ]
    return [case for case in cases if level is Level.FULL or case.level is Level.CORE]


def _section(name: str) -> Iterator[Case]:
    text = (_DATA / "cases" / f"{name}.yaml").read_text(encoding="utf-8")
    for entry in yaml.safe_load(text):
        yield Case(
            id=f"{name}.{entry['name']}",
            level=Level(entry["level"]),
            title=entry["title"],
            means=entry["means"],
            check=entry["check"],
            parameters=entry.get("with", {}),
        )


def _golden_snapshots() -> Iterator[Case]:
    for name, golden in _testdata("snapshots"):
        yield Case(
            id=f"snapshots.{name}",
            level=Level.CORE,
            title=f"A valid snapshot is decided: {golden['why']}",
            means=(
                "Trainers send such snapshots. What is unset was not measured: it is neither zero "
                "nor an error. The decision must keep the contract's own rules and name a slot of "
                "this snapshot."
            ),
            check="decides",
            parameters={"snapshot": golden["snapshot"]},
        )


def _invalid_messages() -> Iterator[Case]:
    for name, invalid in _testdata("invalid"):
        if invalid["type"] not in (_QUERY, _SNAPSHOT):
            continue
        is_snapshot = invalid["type"] == _SNAPSHOT
        prefix = "query.snapshot" if is_snapshot else "query"
        fields = [violation["field"] for violation in invalid["violations"]]
        yield Case(
            id=f"invalid.{name}",
            level=Level.CORE,
            title=f"A query that breaks a rule is refused: {invalid['why']}",
            means=(
                "An implementation that decides on it reads something into the message that is not "
                "there. It must answer INVALID_ARGUMENT with google.rpc.BadRequest and name the "
                "field; the protovalidate library of your language does all of it."
            ),
            check="refuses_invalid",
            parameters={
                "query": _in_query(invalid["message"]) if is_snapshot else invalid["message"],
                "fields": [f"{prefix}.{field}" if field else prefix for field in fields],
            },
        )


def _in_query(snapshot: dict[str, Any]) -> dict[str, Any]:
    return {"snapshot": snapshot, "mode": "SELECTION_MODE_SAMPLED"}


def _testdata(folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
    entries = (_DATA / "testdata" / folder).iterdir()
    for entry in sorted(entries, key=lambda entry: entry.name):
        yield entry.name.removesuffix(".json"), json.loads(entry.read_text(encoding="utf-8"))
