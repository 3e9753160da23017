from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.errors import ErrorCode, LeylineError, Violation
from chassis.status import DETAILS_KEY, from_rpc_error, from_status, to_status

_DOCUMENT = Path(__file__).parents[2] / "docs" / "errors.md"
_TEXT = st.text(max_size=2000)


def _made(code: ErrorCode) -> LeylineError:
    facts: dict[str, Any] = dict.fromkeys(code.spec.facts, "x")
    return LeylineError(code, **facts)


def test_the_document_has_a_row_for_each_code_with_its_status_and_no_other() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| ([A-Z_]+) \|", _DOCUMENT.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted((code.name, code.spec.status.name) for code in ErrorCode)


@pytest.mark.parametrize("code", list(ErrorCode), ids=lambda code: code.name)
def test_every_code_crosses_the_wire_unchanged(code: ErrorCode) -> None:
    error = _made(code)
    remote = from_status(to_status(error, request_id="r-1"))
    assert remote.error_code is code
    assert remote.status is code.spec.status
    assert remote.message == str(error)
    assert remote.metadata == dict.fromkeys(code.spec.facts, "x")
    assert remote.retry_after_s == code.spec.retry_after_s
    assert remote.request_id == "r-1"


@pytest.mark.parametrize("code", list(ErrorCode), ids=lambda code: code.name)
def test_the_client_retries_exactly_what_may_succeed_later(code: ErrorCode) -> None:
    later = code.spec.retry_after_s is not None
    assert from_status(to_status(_made(code))).is_retryable is later


def test_an_error_without_the_facts_of_its_message_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="run_id"):
        LeylineError(ErrorCode.RUN_NOT_FOUND)


def test_an_error_may_know_better_when_to_retry() -> None:
    error = LeylineError(ErrorCode.QUEUE_FULL, retry_after_s=2.5, queue="runs", limit=4)
    assert from_status(to_status(error)).retry_after_s == 2.5


@given(
    run_id=_TEXT,
    other=_TEXT,
    violations=st.lists(st.builds(Violation, _TEXT, _TEXT, _TEXT), max_size=100),
)
def test_no_error_outgrows_the_trailers_that_carry_it(
    run_id: str, other: str, violations: list[Violation]
) -> None:
    error = LeylineError(ErrorCode.RUN_NOT_FOUND, violations=violations, run_id=run_id, other=other)
    status = to_status(error, request_id="r" * 128)
    in_base64 = status.ByteSize() * 4 / 3
    percent_encoded = len(status.message.encode()) * 3
    assert in_base64 + percent_encoded < 8000
    remote = from_status(status)
    assert remote.error_code is ErrorCode.RUN_NOT_FOUND
    assert len(remote.violations) <= len(violations)


def test_the_message_names_the_first_violation_and_counts_the_others() -> None:
    violations = [Violation("slots[0].alpha", "must be at most 1"), Violation("a", "b")]
    error = LeylineError(ErrorCode.INVALID_ARGUMENT, violations=violations)
    expected = "the request is invalid: slots[0].alpha: must be at most 1 (and 1 more)"
    assert to_status(error).message == expected


def _failed_call(*trailers: tuple[str, str | bytes]) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(*trailers), "gone"
    )


@pytest.mark.parametrize(
    "error",
    [_failed_call(), _failed_call((DETAILS_KEY, b"\xff\xff\xff")), _failed_call(("a", "b"))],
    ids=["no trailers", "no status in the trailer", "somebody else's trailer"],
)
def test_an_error_without_details_of_ours_keeps_its_code_and_message(
    error: grpc.aio.AioRpcError,
) -> None:
    remote = from_rpc_error(error)
    assert (remote.status, remote.message) == (grpc.StatusCode.UNAVAILABLE, "gone")
    assert (remote.reason, remote.error_code) == ("", None)
    assert remote.is_retryable
    assert str(remote) == "UNAVAILABLE: gone"
