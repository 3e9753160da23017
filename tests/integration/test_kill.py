"""SIGKILL each service in the middle of a run: nothing stops, is lost, or comes twice."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration
from tests.integration.stack import Stack, eventually

from leyline.client import Experience, Trainer
from leyline.v1.experience_pb2 import ReadEpisodesRequest
from leyline.v1.trainer_pb2 import (
    PRECISION_FP32,
    RUN_STATE_COMPLETED,
    DatasetSpec,
    PolicySpec,
    RunSpec,
    TrainingSpec,
)
from leyline.v1.transition_pb2 import Transition

FALLBACK = 2
STEPS = "SELECT count(*) FROM steps WHERE completed_at IS NOT NULL"
FALLBACKS = f"{STEPS} AND decider = {FALLBACK}"


@pytest.fixture
def stack(stack: Stack) -> Stack:
    """With a policy that is a fixed function of the query, so that runs can be compared."""
    stack.policy = "random"
    return stack


def digits(horizon: int, episodes: int = 1) -> RunSpec:
    return RunSpec(
        dataset=DatasetSpec(name="digits", training_images=400, validation_images=200),
        training=TrainingSpec(
            batch_size=50, interval_batches=4, horizon=horizon, precision=PRECISION_FP32
        ),
        policy=PolicySpec(decision_timeout=Duration(nanos=500_000_000)),
        episodes=episodes,
        seed=11,
    )


async def finish(trainer: Trainer, run_id: str) -> None:
    async for _ in trainer.watch(run_id):
        pass
    run = await trainer.get(run_id)
    assert run.state == RUN_STATE_COMPLETED, run.status_message


async def steps_taken(stack: Stack, run_id: str, at_least: int) -> None:
    query = f"{STEPS} AND run_id = '{run_id}'"
    await eventually(lambda: stack.count(stack.journal, query) >= at_least, f"{at_least} steps")


async def all_stored_once(stack: Stack) -> None:
    """Waits for the outbox to drain, and holds what Simic has against what Kasmina did."""

    def drained() -> bool:
        return stack.count(stack.journal, "SELECT count(*) FROM outbox") == 0

    await eventually(drained, "the outbox drains")
    assert stack.count(stack.journal, "SELECT count(*) FROM refused") == 0
    taken = stack.ask(
        stack.journal, "SELECT run_id, episode_index, step FROM steps ORDER BY 1, 2, 3"
    )
    stored = stack.ask(
        stack.store,
        """SELECT e.run_id, e.episode_index, t.step FROM episodes e JOIN transitions t
           ON t.episode_id = e.id ORDER BY 1, 2, 3""",
    )
    assert stored == taken


async def test_without_tamiyo_the_run_goes_on_with_wait_and_then_the_policy_decides_again(
    stack: Stack,
) -> None:
    await stack.up()
    async with Trainer(stack.addresses["kasmina"]) as trainer:
        await trainer.start(digits(horizon=120), "run")
        await eventually(lambda: stack.count(stack.journal, STEPS) >= 5, "five steps")
        stack.kill("tamiyo")
        await eventually(lambda: stack.count(stack.journal, FALLBACKS) >= 3, "three fallbacks")
        await stack.up("tamiyo")
        back_at = stack.count(stack.journal, "SELECT max(step) FROM steps")
        decided = f"SELECT count(*) FROM steps WHERE decider != {FALLBACK} AND step > {back_at}"
        await eventually(lambda: stack.count(stack.journal, decided) >= 3, "the policy decides")
        await trainer.cancel("run")
        async for _ in trainer.watch("run"):
            pass
    await all_stored_once(stack)
    marked = stack.ask(
        stack.store,
        f"""SELECT DISTINCT action_type, slot_id, policy_version FROM transitions
            WHERE decider = {FALLBACK}""",
    )
    assert marked == [(1, None, None)], "a fallback is a WAIT of nobody's"


async def test_without_simic_nothing_stops_and_the_outbox_drains_afterwards(stack: Stack) -> None:
    await stack.up()
    async with Trainer(stack.addresses["kasmina"]) as trainer:
        await trainer.start(digits(horizon=15, episodes=3), "run")
        await eventually(lambda: stack.count(stack.journal, STEPS) >= 5, "five steps")
        stack.kill("simic")
        await finish(trainer, "run")
        assert stack.count(stack.journal, "SELECT count(*) FROM outbox") > 0
        assert stack.count(stack.journal, STEPS) == 45
    await stack.up("simic")
    await all_stored_once(stack)


async def test_a_killed_kasmina_resumes_with_the_same_decisions(stack: Stack) -> None:
    await stack.up()
    async with Trainer(stack.addresses["kasmina"]) as trainer:
        await trainer.start(digits(horizon=30), "undisturbed")
        await finish(trainer, "undisturbed")
        await trainer.start(digits(horizon=30), "killed")
        for steps in (3, 11, 19):
            await steps_taken(stack, "killed", at_least=steps)
            stack.kill("kasmina")
            await stack.up("kasmina")
        await finish(trainer, "killed")
    await all_stored_once(stack)
    assert await story(stack, "killed") == await story(stack, "undisturbed")


async def test_killed_between_a_decision_and_its_application_the_same_decision_is_applied(
    stack: Stack,
) -> None:
    await stack.up("simic", "tamiyo")
    await stack.up("kasmina", LEYLINE_KASMINA_CRASH_AT="decision-journalled:0:6")
    crashes = "SELECT crashes FROM runs WHERE run_id = 'killed'"
    undecided = "SELECT decision FROM steps WHERE run_id = 'killed' AND step = 6"
    async with Trainer(stack.addresses["kasmina"]) as trainer:
        await trainer.start(digits(horizon=12), "killed")
        # The worker is dead between the two; now the service, too.
        await eventually(lambda: stack.count(stack.journal, crashes) == 1, "the worker's death")
        stack.kill("kasmina")
        written_down = stack.ask(stack.journal, undecided)
        assert len(written_down) == 1
        await stack.up("kasmina")
        await finish(trainer, "killed")
        assert stack.ask(stack.journal, undecided) == written_down
        assert await latencies(trainer, "killed", step=6) == [None], "the policy was not asked anew"
        await trainer.start(digits(horizon=12), "undisturbed")
        await finish(trainer, "undisturbed")
    await all_stored_once(stack)
    assert await story(stack, "killed") == await story(stack, "undisturbed")


async def latencies(trainer: Trainer, run_id: str, step: int) -> list[float | None]:
    """How long the decision of a step took, for each time that it was carried out."""
    return [
        event.step_decided.latency.ToTimedelta().total_seconds()
        if event.step_decided.HasField("latency")
        else None
        async for event in trainer.watch(run_id)
        if event.HasField("step_decided") and event.step_decided.step_id.step == step
    ]


async def story(stack: Stack, run_id: str) -> list[bytes]:
    """All of a run's transitions, without what differs between two runs of the same story."""
    async with Experience(stack.addresses["simic"]) as experience:
        request = ReadEpisodesRequest(run_id=run_id)
        return [
            told(record.transition)
            async for record in experience.read(request)
            if record.HasField("transition")
        ]


def told(transition: Transition) -> bytes:
    for snapshot in (transition.snapshot, transition.next_snapshot):
        snapshot.ClearField("step_id")
    transition.step_id.run_id = "same"
    transition.decision.ClearField("decision_id")
    transition.facts.ClearField("duration")
    transition.ClearField("completed_at")
    return transition.SerializeToString(deterministic=True)
