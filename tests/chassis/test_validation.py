from __future__ import annotations

import json
from pathlib import Path

import pytest
from google.protobuf import json_format, symbol_database, wrappers_pb2
from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]

from chassis.errors import ErrorCode, LeylineError
from chassis.validation import check, violations
from leyline.v1 import policy_pb2, registry_pb2, transition_pb2
from leyline.v1.transition_pb2 import TERMINATION_HORIZON

_INVALID = sorted((Path(__file__).parents[2] / "proto" / "testdata" / "invalid").glob("*.json"))
# Imported for the messages that the files name.
_CONTRACT = (policy_pb2, transition_pb2)


@pytest.mark.parametrize("file", _INVALID, ids=lambda file: file.stem)
def test_each_golden_invalid_message_gets_its_violations(file: Path) -> None:
    case = json.loads(file.read_text())
    message = symbol_database.Default().GetSymbol(case["type"])()
    json_format.ParseDict(case["message"], message)
    found = sorted((broken.field, broken.rule) for broken in violations(message))
    expected = sorted((broken["field"], broken["rule_id"]) for broken in case["violations"])
    assert found == expected


def test_there_are_golden_invalid_messages() -> None:
    assert _INVALID


def test_a_refusal_carries_every_violation() -> None:
    chunk = registry_pb2.ArtifactChunk()
    with pytest.raises(LeylineError) as refused:
        check(registry_pb2.RegisterPolicyRequest(chunk=chunk))
    assert refused.value.code is ErrorCode.INVALID_ARGUMENT
    assert [broken.field for broken in refused.value.violations] == ["chunk.data"]
    assert refused.value.violations[0].rule == "bytes.min_len"


def test_a_message_of_somebody_else_has_no_rules_of_ours() -> None:
    check(wrappers_pb2.StringValue())
    check(health_pb2.HealthCheckRequest())


@pytest.mark.parametrize("nanos", [-1, 10**9])
def test_a_time_that_protobuf_itself_forbids_is_refused_wherever_it_stands(nanos: int) -> None:
    step = transition_pb2.Transition()
    step.completed_at.nanos = nanos
    step.facts.duration.nanos = nanos
    refused = {broken.field for broken in violations(step) if broken.rule == "time.nanos"}
    # Less than nothing is a duration, and no point in time.
    assert refused == {"completed_at"} | ({"facts.duration"} if nanos > 0 else set())
    end = transition_pb2.EpisodeEnd(run_id="run", termination=TERMINATION_HORIZON, steps=1)
    end.ended_at.FromSeconds(1)
    assert violations(end) == ()
    end.ended_at.nanos = nanos
    assert [broken.field for broken in violations(end)] == ["ended_at"]
