from __future__ import annotations

import json
from pathlib import Path

import pytest
from google.protobuf import json_format, symbol_database, wrappers_pb2
from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]

from chassis.errors import ErrorCode, LeylineError
from chassis.validation import check, violations
from leyline.v1 import policy_pb2, registry_pb2, transition_pb2

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
