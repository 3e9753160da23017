"""The heuristic against the decisions in proto/testdata, and those against its rules."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import protovalidate
import pytest
from google.protobuf import json_format
from tests.contract.make_testdata import heuristic_query

from leyline.observation import SEED_SPEC
from leyline.v1.decision_pb2 import ActionType, Decision
from leyline.v1.snapshot_pb2 import MultiSlotSnapshot
from tamiyo.policies.heuristic import HeuristicPolicy, Thresholds
from tamiyo.policy import decision_from

TESTDATA = Path(__file__).resolve().parents[2] / "proto" / "testdata"
DATA: dict[str, Any] = json.loads((TESTDATA / "heuristic" / "decisions.json").read_text("utf-8"))


def snapshot(case: dict[str, Any]) -> MultiSlotSnapshot:
    given = case.get("snapshot")
    if given is None:
        file = TESTDATA / "snapshots" / f"{case['golden']}.json"
        given = json.loads(file.read_text("utf-8"))["snapshot"]
    return json_format.ParseDict(given, MultiSlotSnapshot())


SNAPSHOTS = [snapshot(case) for case in DATA["cases"]]
TEMPERATURES: list[float | None] = [case.get("temperature") for case in DATA["cases"]]
DECISIONS = [json_format.ParseDict(case["decision"], Decision()) for case in DATA["cases"]]


def decisions(policy: HeuristicPolicy) -> list[Decision]:
    queries = list(map(heuristic_query, SNAPSHOTS, TEMPERATURES))
    choices = policy.decide(queries)
    return [decision_from(policy, *pair) for pair in zip(queries, choices, strict=True)]


def test_the_heuristic_decides_as_the_file_says() -> None:
    policy = HeuristicPolicy(SEED_SPEC, Thresholds(**DATA["thresholds"]))
    assert policy.version == DATA["policy_version"]
    assert policy.thresholds == Thresholds()
    assert decisions(policy) == DECISIONS


def test_the_snapshots_are_valid_and_every_action_is_taken_often() -> None:
    assert not [s for s in SNAPSHOTS if protovalidate.collect_violations(s)]
    assert len(SNAPSHOTS) >= 500
    taken = Counter(decision.action_type for decision in DECISIONS)
    assert set(taken) == set(ActionType.values()[1:])
    assert min(taken.values()) >= 50


@pytest.mark.parametrize("name", [field.name for field in fields(Thresholds)])
@pytest.mark.parametrize("direction", [1, -1])
def test_another_threshold_makes_another_decision_somewhere(name: str, direction: int) -> None:
    step = 0.00015 if isinstance(DATA["thresholds"][name], float) else 1
    moved = {name: DATA["thresholds"][name] + direction * step}
    policy = HeuristicPolicy(SEED_SPEC, replace(Thresholds(), **moved))
    assert decisions(policy) != DECISIONS
