"""Many runs at once and one after the other: real processes, and a service that is killed.

In a short form. The full one takes about ten minutes (`make soak-kasmina`): it kills a run's worker
at 50 random instants, and plays 200 runs before it looks at the service's memory again.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import grpc
import pytest
from tests.kasmina.neighbours import Experience, Policy, serving, until
from tests.kasmina.running import Kasmina, kasmina, simulated_spec, small_spec
from tests.kasmina.runs.test_worker import without_clocks
from tests.processes import memory_mib

from chassis.status import from_rpc_error
from leyline.v1.trainer_pb2 import (
    RUN_STATE_CANCELLED,
    RUN_STATE_COMPLETED,
    CancelRunRequest,
)
from leyline.v1.transition_pb2 import TERMINATION_CANCELLED, TERMINATION_HORIZON

pytestmark = pytest.mark.lengthy

FULL = "LEYLINE_SOAK" in os.environ
KILLS = 50 if FULL else 4
SOAKED_RUNS = 200 if FULL else 16
ROOM_FOR_NOISE_MIB = 4.0
"""More than the allocator's moods, less than 200 runs could hide in."""


@pytest.mark.timeout(900)
async def test_of_eight_runs_in_a_full_queue_all_end_but_two_that_are_cancelled(
    tmp_path: Path,
) -> None:
    policy, experience = Policy(), Experience()
    limits = {"LEYLINE_KASMINA_PARALLELISM": "2", "LEYLINE_KASMINA_QUEUE_LIMIT": "8"}
    names = [f"run-{number}" for number in range(8)]
    cancelled = {"run-1", "run-6"}
    async with serving(policy, experience) as neighbours:
        async with kasmina(tmp_path, neighbours, neighbours, limits) as service:
            for number, name in enumerate(names):
                await service.start_run(name, small_spec(horizon=12, seed=number))
            while await queued(service, names) < 8:  # two of the eight may be at work already
                await service.start_run(extra := f"more-{len(names)}", small_spec(horizon=1))
                names.append(extra)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await service.start_run("one-too-many", small_spec())
            assert from_rpc_error(refused.value).reason == "QUEUE_FULL"
            await until(lambda: len(policy.asked) >= 4)
            for name in cancelled:
                await service.stub.CancelRun(CancelRunRequest(run_id=name, reason="not needed"))
            await until(lambda: len(policy.asked) >= 10)
            await service.kill()
        async with kasmina(tmp_path, neighbours, neighbours, limits) as service:
            for name in names:
                await service.finish(name)
            runs = {name: await service.run(name) for name in names}
            complete = {(name, 0) for name in names if name not in cancelled}
            await until(lambda: complete <= experience.ends.keys())

    for name, run in runs.items():
        if name in cancelled:
            assert run.state == RUN_STATE_CANCELLED
            assert run.status_message == "not needed"
            continue
        assert run.state == RUN_STATE_COMPLETED, name
        horizon = run.spec.training.horizon
        assert run.steps_completed == len(experience.episode(name, 0)) == horizon
        assert experience.ends[name, 0].termination == TERMINATION_HORIZON
    for (name, _), end in experience.ends.items():
        if name in cancelled:
            assert end.termination == TERMINATION_CANCELLED


async def queued(service: Kasmina, names: list[str]) -> int:
    """How many of the runs wait for a worker."""
    runs = [await service.run(name) for name in names]
    return sum(not run.HasField("started_at") for run in runs)


@pytest.mark.timeout(3600)
async def test_killed_at_random_instants_a_run_is_bit_for_bit_the_uninterrupted_one(
    tmp_path: Path,
) -> None:
    policy, experience = Policy(), Experience()
    chance = random.Random(11)
    spec = small_spec(horizon=6 * KILLS)
    async with (
        serving(policy, experience) as neighbours,
        kasmina(tmp_path, neighbours, neighbours) as service,
    ):
        await service.start_run("killed", spec)
        kills = 0
        while kills < KILLS:
            # Anywhere in some later step: the policy's question tells how far it is.
            await until(partial(further_than, policy, len(policy.asked) + 1))
            await asyncio.sleep(chance.uniform(0.0, 0.2))
            for worker in workers_at_work(service.process.pid):
                os.kill(worker, signal.SIGKILL)
                kills += 1
        await service.finish("killed")
        await service.start_run("whole", spec)
        await service.finish("whole")
        runs = [await service.run("killed"), await service.run("whole")]
        await until(lambda: len(experience.ends) == 2)

    print(f"\nkilled {kills} times in {spec.training.horizon} steps")
    assert [run.state for run in runs] == [RUN_STATE_COMPLETED] * 2
    killed, whole = experience.episode("killed", 0), experience.episode("whole", 0)
    assert len(killed) == len(whole) == spec.training.horizon
    assert list(map(without_clocks, killed)) == list(map(without_clocks, whole))


def further_than(policy: Policy, asked: int) -> bool:
    """Whether the policy has been asked more often than that."""
    return len(policy.asked) > asked


def workers_at_work(service: int) -> Iterator[int]:
    """Processes of the service that compute: one that has no order yet has opened no journal."""
    for task in Path(f"/proc/{service}/task").iterdir():
        for child in (task / "children").read_text().split():
            opened = [os.readlink(file) for file in Path(f"/proc/{child}/fd").iterdir()]
            if any("journal" in name for name in opened):
                yield int(child)


@pytest.mark.timeout(3600)
async def test_memory_does_not_grow_with_the_number_of_finished_runs(tmp_path: Path) -> None:
    policy, experience = Policy(), Experience()
    limits = {"LEYLINE_KASMINA_PARALLELISM": "2", "LEYLINE_KASMINA_KEEP_RUNS": "10000"}

    async def play(service: Kasmina, first: int, count: int) -> None:
        names = [f"run-{number}" for number in range(first, first + count)]
        for name in names:
            await service.start_run(name, simulated_spec(horizon=2))
        for name in names:
            await service.finish(name)

    async with (
        serving(policy, experience) as neighbours,
        kasmina(tmp_path, neighbours, neighbours, limits) as service,
    ):
        await play(service, 0, 8)
        before = memory_mib(service.process.pid)
        await play(service, 8, SOAKED_RUNS)
        after = memory_mib(service.process.pid)
    print(f"\n{before:.1f} MiB after 8 runs, {after:.1f} MiB after {SOAKED_RUNS} more")
    assert after - before < ROOM_FOR_NOISE_MIB
