"""Policies that people write themselves, served like Tamiyo's own."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest
from tests.tamiyo.queries import query

import tamiyo
from chassis.address import Address
from leyline.conformance import Outcome, Target, Unreachable, load_cases, run_cases
from leyline.observation import EXTENDED_SPEC, SEED_SPEC
from leyline.v1.decision_pb2 import ACTION_TYPE_GERMINATE, ActionType, DecisionQuery
from leyline.v1.policy_pb2 import StreamDecisionsRequest
from leyline.v1.policy_pb2_grpc import PolicyServiceStub
from tamiyo import Choice
from tamiyo.own import policy_of
from tamiyo.servicer import Introduction
from tamiyo.serving import serve_versions
from tamiyo.settings import PolicySettings
from tamiyo.versions import BuiltInVersions

EXAMPLES = Path(__file__).parents[2] / "examples" / "policies"


@pytest.mark.parametrize("example", ["rule.py", "network.py"])
async def test_an_example_passes_the_conformance_suite(tmp_path: Path, example: str) -> None:
    address = f"unix:{tmp_path}/socket"
    process = await asyncio.create_subprocess_exec(
        sys.executable, EXAMPLES / example, "--listen", address, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        while True:
            assert process.returncode is None
            try:
                target = await Target(address).introduced()
                break
            except Unreachable:
                await asyncio.sleep(0.1)
        failed = {
            result.case.id: result.message
            async for result in run_cases(target, load_cases())
            if result.outcome is Outcome.FAILED
        }
        assert not failed
    finally:
        process.terminate()
        assert await process.wait() == 0


async def test_what_a_policy_raises_is_the_error_of_its_query_and_the_stream_goes_on(
    tmp_path: Path,
) -> None:
    def decide(asked: DecisionQuery) -> Choice:
        if asked.snapshot.step_id.step == 1:
            raise RuntimeError("a secret of the author's")
        return Choice.wait()

    policy = policy_of(decide, name="moody", version="1")
    settings = PolicySettings(listen=Address.parse(f"unix:{tmp_path}/socket"))
    introduction = Introduction(policy.name, policy.spec)
    serving = asyncio.create_task(serve_versions(settings, introduction, BuiltInVersions(policy)))
    try:
        async with grpc.aio.insecure_channel(str(settings.listen)) as channel:
            requests = (StreamDecisionsRequest(query=query(step)) for step in range(3))
            call = PolicyServiceStub(channel).StreamDecisions(requests, wait_for_ready=True)
            answers = [answer async for answer in call]
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    assert [answer.WhichOneof("outcome") for answer in answers] == ["decision", "error", "decision"]
    assert answers[1].error.code == grpc.StatusCode.INTERNAL.value[0]
    assert "secret" not in str(answers[1])


@pytest.mark.parametrize("example", ["rule.py", "network.py"])
def test_an_example_is_a_policy_in_under_thirty_lines(example: str) -> None:
    text = (EXAMPLES / example).read_text().split('"""', 2)[2]
    written = [line for line in text.splitlines() if line.strip()]
    assert len(written) < 30


def test_a_function_is_a_policy_of_its_name_and_version() -> None:
    policy = policy_of(
        lambda asked: Choice.germinate(asked.snapshot.slots[0].slot_id),
        name="eager",
        version="3",
        spec="extended",
    )
    assert (policy.name, policy.version, policy.spec) == ("eager", "eager-3", EXTENDED_SPEC)
    asked = [query(step) for step in range(3)]
    assert [choice.action_type for choice in policy.decide(asked)] == [ACTION_TYPE_GERMINATE] * 3


class OneChoiceForAll:
    name, version, spec, slots = "lazy", "lazy-1", SEED_SPEC, None

    def decide(self, queries: list[DecisionQuery]) -> list[Choice]:
        return [Choice.wait()]


def _another_slot(asked: DecisionQuery) -> Choice:
    return Choice.cull("slot-99")


def _nowhere(asked: DecisionQuery) -> Choice:
    return Choice(ACTION_TYPE_GERMINATE, Choice.wait().mode)


def _a_word(asked: DecisionQuery) -> Choice:
    return "WAIT"  # type: ignore[return-value]


def _no_type(asked: DecisionQuery) -> Choice:
    return dataclasses.replace(Choice.wait(), action_type=ActionType.ACTION_TYPE_UNSPECIFIED)


def _more_than_certain(asked: DecisionQuery) -> Choice:
    return dataclasses.replace(Choice.wait(), type_log_prob=0.5)


def _worth_nothing_known(asked: DecisionQuery) -> Choice:
    return dataclasses.replace(Choice.wait(), value=math.nan)


@pytest.mark.parametrize(
    "decide",
    [_another_slot, _nowhere, _a_word, _no_type, _more_than_certain, _worth_nothing_known],
)
def test_a_choice_that_the_contract_does_not_admit_is_an_error(
    decide: Callable[[DecisionQuery], Choice],
) -> None:
    policy = policy_of(decide, name="wrong", version="1")
    with pytest.raises((TypeError, ValueError), match="wrong chose"):
        policy.decide([query()])


def test_a_policy_answers_each_query_once() -> None:
    policy = policy_of(OneChoiceForAll())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 choices on 2 queries"):
        policy.decide([query(0), query(1)])


@pytest.mark.parametrize(
    ("given", "names", "why"),
    [
        (OneChoiceForAll, {}, "not the class"),
        (3, {}, "neither a function nor a policy"),
        (lambda asked: Choice.wait(), {"name": "nameless"}, "a name and a version"),
    ],
)
def test_what_is_no_policy_is_refused(given: object, names: dict[str, str], why: str) -> None:
    with pytest.raises(TypeError, match=why):
        tamiyo.serve(given, **names)  # type: ignore[arg-type]


def test_help_lists_the_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        tamiyo.serve(lambda asked: Choice.wait(), name="w", version="1", argv=["--help"])
    assert ended.value.code == 0
    assert "--listen" in capsys.readouterr().out


def test_a_wrong_flag_ends_the_process_with_what_is_wrong(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        tamiyo.serve(
            lambda asked: Choice.wait(), name="w", version="1", argv=["--listen", "0.0.0.0:0"]
        )
    assert ended.value.code == 2
    assert "--insecure" in capsys.readouterr().err
