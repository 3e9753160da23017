"""Runs cases against an implementation, one after the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import grpc

from leyline.conformance.case import Case
from leyline.conformance.checks import CHECKS
from leyline.conformance.checks.operations import RESTART_S
from leyline.conformance.target import Failed, Skipped, Target
from leyline.error import ServiceError

CASE_TIMEOUT_S = 4 * RESTART_S
"""Longest a case may take: three waits for a restart and then some."""


class Outcome(StrEnum):
    """What became of a case."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Result:
    """A case that was run.

    Attributes:
        case: the case.
        outcome: what became of it.
        seconds: how long it took.
        message: what the implementation did instead, or why the case was skipped; empty where it
            passed.
    """

    case: Case
    outcome: Outcome
    seconds: float
    message: str = ""


async def run_cases(target: Target, cases: Sequence[Case]) -> AsyncIterator[Result]:
    """Run cases against an implementation that has introduced itself; yields as they end."""
    for case in cases:
        began = time.monotonic()
        outcome, message = await _run(target, case)
        yield Result(case, outcome, time.monotonic() - began, message)


async def _run(target: Target, case: Case) -> tuple[Outcome, str]:
    try:
        async with asyncio.timeout(CASE_TIMEOUT_S):
            await CHECKS[case.check](target, **case.parameters)
    except Skipped as why:
        return Outcome.SKIPPED, str(why)
    except Failed as why:
        return Outcome.FAILED, str(why)
    except ServiceError as error:
        return Outcome.FAILED, f"it answered {error.code}: {error}"
    except grpc.aio.AioRpcError as error:
        return Outcome.FAILED, f"a stream ended with {error.code().name}: {error.details()}"
    except TimeoutError:
        return Outcome.FAILED, f"it took longer than {CASE_TIMEOUT_S:g} s"
    except asyncio.InvalidStateError:
        return Outcome.FAILED, "a stream ended before all was answered"
    except Exception as error:
        # Whatever a server may send must not cost the results of the other cases.
        return Outcome.FAILED, f"its answer cannot be read: {type(error).__name__}: {error}"
    return Outcome.PASSED, ""
