"""The control that plays a fixed plan."""

from __future__ import annotations

from pathlib import Path

from tests.tamiyo.queries import query
from tests.tamiyo.running import info, running
from tests.tamiyo.test_process import failing

from leyline.observation import SEED_SPEC
from leyline.v1.decision_pb2 import (
    ACTION_TYPE_ADVANCE,
    ACTION_TYPE_GERMINATE,
    ACTION_TYPE_WAIT,
)
from leyline.v1.policy_pb2 import DecideRequest
from leyline.v1.policy_pb2_grpc import PolicyServiceStub
from leyline.v1.trainer_pb2 import Plan, PlannedAction
from tamiyo.policies.schedule import SchedulePolicy

PLAN = Plan(
    actions=[
        PlannedAction(step=4, action_type=ACTION_TYPE_ADVANCE, slot_id="slot-1"),
        PlannedAction(step=2, action_type=ACTION_TYPE_GERMINATE, slot_id="slot-1"),
    ]
)
FILE = """\
actions:
  - {step: 2, action_type: germinate, slot_id: slot-1}
  - {step: 4, action_type: advance, slot_id: slot-1}
"""


def test_a_step_gets_its_action_and_every_other_step_waits() -> None:
    policy = SchedulePolicy(SEED_SPEC, PLAN)
    choices = policy.decide([query(step) for step in range(6)])
    assert [(choice.action_type, choice.slot_id) for choice in choices] == [
        (ACTION_TYPE_WAIT, None),
        (ACTION_TYPE_WAIT, None),
        (ACTION_TYPE_GERMINATE, "slot-1"),
        (ACTION_TYPE_WAIT, None),
        (ACTION_TYPE_ADVANCE, "slot-1"),
        (ACTION_TYPE_WAIT, None),
    ]


def test_a_version_is_named_by_what_is_planned_in_whatever_order() -> None:
    turned = Plan(actions=reversed(PLAN.actions))
    other = Plan(actions=PLAN.actions[:1])
    version = SchedulePolicy(SEED_SPEC, PLAN).version
    assert SchedulePolicy(SEED_SPEC, turned).version == version
    assert SchedulePolicy(SEED_SPEC, other).version != version


async def test_a_plan_in_a_file_is_served(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(FILE)
    async with running(tmp_path, policy="schedule", plan=tmp_path / "plan.yaml") as channel:
        assert (await info(channel)).policy_version == SchedulePolicy(SEED_SPEC, PLAN).version
        decided = await PolicyServiceStub(channel).Decide(DecideRequest(query=query(2)))
        assert decided.decision.slot_id == "slot-1"


def test_a_plan_that_cannot_be_played_is_an_error_that_says_where(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    missing = failing("--policy", "schedule", "--plan", str(plan))
    assert missing.returncode == 1
    assert str(plan) in missing.stderr
    plan.write_text(FILE.replace("germinate", "germinated"))
    wrong = failing("--policy", "schedule", "--plan", str(plan))
    assert wrong.returncode == 2
    assert f"{plan}:2" in wrong.stderr
    assert "germinated" in wrong.stderr
    alone = failing("--policy", "schedule")
    assert alone.returncode == 2
    assert "--plan FILE" in alone.stderr
    for ended in (missing, wrong, alone):
        assert "Traceback" not in ended.stderr
