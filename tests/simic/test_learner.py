"""The learner in its own process, over a service in another."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import grpc.aio
import pytest
import torch
from tests.simic.episodes import played
from tests.simic.running import Client, SimicProcess, eventually, running

from leyline.client import Experience
from leyline.v1.decision_pb2 import ActionType
from leyline.v1.experience_pb2 import ReadEpisodesRequest, RecordTransitionsRequest
from leyline.v1.learner_pb2 import (
    GetTrainingRequest,
    StartTrainingRequest,
    StopTrainingRequest,
    Training,
    TrainingPlan,
    TrainingState,
    WatchTrainingRequest,
    WatchTrainingResponse,
)
from leyline.v1.registry_pb2 import (
    DownloadPolicyRequest,
    GetPolicyRequest,
    ListPoliciesRequest,
    PolicyManifest,
    WatchPoliciesRequest,
)
from simic.database.database import Database, sqlite_url
from simic.experience.store import ExperienceStore
from simic.learning.learner import Learner
from simic.learning.training import TrainingStore


def gain(action: ActionType.ValueType, _slot: int | None) -> float:
    return 0.03 if action == ActionType.ACTION_TYPE_GERMINATE else 0.0


async def start(client: Client, training_id: str = "t", max_updates: int = 0) -> None:
    plan = TrainingPlan(preset="demo", max_updates=max_updates)
    await client.learner.StartTraining(StartTrainingRequest(training_id=training_id, plan=plan))


async def training(client: Client) -> Training:
    response = await client.learner.GetTraining(GetTrainingRequest())
    return response.training


async def newest(client: Client) -> str:
    """The newest version of the training, once it has one."""

    async def begun() -> bool:
        try:
            return (await training(client)).policy_version != ""
        except grpc.aio.AioRpcError as error:
            # The service answers before its first training is there.
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return False
            raise

    await eventually(begun)
    return (await training(client)).policy_version


async def updated(client: Client, number: int) -> None:
    async def has_updated() -> bool:
        return (await training(client)).updates >= number

    await eventually(has_updated)


async def play(client: Client, first: int, episodes: int) -> None:
    """Episodes by the newest version, whole."""
    version = await newest(client)
    for index in range(first, first + episodes):
        script = played(version, index, 10, gain)
        begun = await client.experience.BeginEpisode(script.begin())
        assert begun.policy_version == version
        request = RecordTransitionsRequest(items=script.items())
        assert not (await client.experience.RecordTransitions(request)).rejected


async def watch(client: Client, training_id: str = "t") -> list[WatchTrainingResponse]:
    """All updates of a training, which has ended or ends."""
    request = WatchTrainingRequest(training_id=training_id)
    return [update async for update in client.learner.WatchTraining(request)]


async def manifests(client: Client) -> list[PolicyManifest]:
    """All versions, oldest first."""
    response = await client.registry.ListPolicies(ListPoliciesRequest())
    return list(response.policies)[::-1]


@asynccontextmanager
async def connected(simic: SimicProcess) -> AsyncIterator[Client]:
    async with grpc.aio.insecure_channel(await simic.start()) as channel:
        yield Client(channel)


def learners(directory: Path) -> list[int]:
    """Process ids of the learners that the service has started, oldest first."""
    events = [json.loads(line) for line in (directory / "log").read_text().splitlines()]
    return [event["pid"] for event in events if event["event"] == "learner started"]


async def gone(pid: int) -> None:
    async def is_gone() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        # A zombie is gone too: it only waits for whoever inherited it.
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()  # noqa: ASYNC240

    await eventually(is_gone)


def test_the_service_does_not_load_torch() -> None:
    code = "import sys, simic.service; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_two_versions_are_learned_from_whole_episodes_and_a_later_training_goes_on(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as client:
        await start(client, max_updates=2)
        initial = await newest(client)
        await play(client, 0, 2)
        await updated(client, 1)
        await play(client, 2, 2)
        updates = await watch(client)

        assert [update.sequence for update in updates] == [1, 2]
        assert all(update.gradient_steps > 0 for update in updates)
        assert [update.episodes for update in updates] == [2, 2]
        versions = await manifests(client)
        names = [manifest.policy_version for manifest in versions]
        assert names == [initial, *(update.policy_version for update in updates)]
        assert len(set(names)) == 3
        assert [manifest.parent_version for manifest in versions] == ["", *names[:-1]]
        assert [manifest.training.updates for manifest in versions] == [0, 1, 2]
        assert [manifest.training.transitions for manifest in versions] == [0, 20, 40]
        assert len({manifest.artifact_sha256 for manifest in versions}) == 3
        diagnostics = versions[-1].training.diagnostics
        assert diagnostics.keys() >= {"kl", "entropy", "clip_fraction", "explained_variance"}
        assert diagnostics.keys() >= {"policy_loss", "value_loss", "wait_share", "no_op_rate"}

        events = []
        call = client.registry.WatchPolicies(WatchPoliciesRequest())
        async for event in call:
            events.append(event)
            if event.activated.policy_version == names[-1]:
                break
        call.cancel()
        kinds = [event.WhichOneof("event") for event in events]
        assert kinds == ["registered", "activated"] * 3
        assert (await client.registry.GetPolicy(GetPolicyRequest())).active
        assert (await training(client)).state == TrainingState.TRAINING_STATE_COMPLETED

        await start(client, "another")
        assert await newest(client) == names[-1]
        await client.learner.StopTraining(StopTrainingRequest(training_id="another"))
        assert await watch(client, "another") == []
        assert (await training(client)).state == TrainingState.TRAINING_STATE_STOPPED
        assert len(await manifests(client)) == 3


async def test_a_killed_learner_and_a_killed_service_go_on_from_the_last_update(
    tmp_path: Path,
) -> None:
    simic = SimicProcess(tmp_path)
    async with connected(simic) as client:
        await start(client, max_updates=3)
        await play(client, 0, 2)
        await updated(client, 1)
        [first] = learners(tmp_path)
        os.kill(first, signal.SIGKILL)
        await play(client, 2, 2)
        await updated(client, 2)
        second = learners(tmp_path)[-1]
        assert second != first
        await simic.kill()
    await gone(second)

    async with connected(simic) as client:
        await play(client, 4, 2)
        updates = await watch(client)
        assert [update.sequence for update in updates] == [1, 2, 3]
        versions = await manifests(client)
        names = [manifest.policy_version for manifest in versions]
        assert len(set(names)) == 4
        assert [manifest.parent_version for manifest in versions] == ["", *names[:-1]]
        assert (await training(client)).episodes == 6
    assert await simic.stop() == 0


async def test_a_learner_that_cannot_go_on_fails_its_training_and_not_the_service(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, train="demo") as client:
        initial = await newest(client)
        assert (await training(client)).plan.preset == "demo"
    with sqlite3.connect(tmp_path / "state" / "simic.sqlite3") as connection:
        connection.execute("UPDATE trainings SET checkpoint = x'00'")
    connection.close()
    async with running(tmp_path, learner_restarts=1, learner_restart_s=0.01) as client:
        failed = (await training(client)).training_id
        assert await watch(client, failed) == []
        ended = await training(client)
        assert ended.state == TrainingState.TRAINING_STATE_FAILED
        assert "exit code 1 2 times in a row" in ended.status_message
        assert [each.policy_version for each in await manifests(client)] == [initial]


def taught(folder: Path, training_id: str, arrival: Sequence[int], dies_at: int = 0) -> list[str]:
    """The versions that a deterministic training makes of four episodes, with a lag of one.

    Args:
        folder: of its database.
        training_id: its name.
        arrival: the order in which the episodes come in.
        dies_at: number of the gradient step in which its first learner dies.
    """
    folder.mkdir()
    database = Database(sqlite_url(folder))
    trainings, experience = TrainingStore(database), ExperienceStore(database)
    plan = TrainingPlan(preset="demo", max_updates=2, deterministic=True, run_id="study", lag=1)
    trainings.start(training_id, plan)
    first = Learner(database, training_id, folder / "curves")
    for index in arrival:
        script = played("", index, 10, gain, run="study")
        pinned = experience.begin(script.begin()).policy_version
        items = replace(script, version=pinned).items()
        assert set(experience.record(items)) == {None}
    steps = itertools.count(1)
    step = torch.optim.Adam.step

    def mortal(optimizer: torch.optim.Adam) -> None:
        if next(steps) == dies_at:
            raise KeyboardInterrupt
        step(optimizer)

    with patch.object(torch.optim.Adam, "step", mortal):
        if dies_at:
            with pytest.raises(KeyboardInterrupt):
                first.run()
            Learner(database, training_id, folder / "curves").run()
        else:
            first.run()
    ended = trainings.get(training_id)
    assert ended.state == TrainingState.TRAINING_STATE_COMPLETED
    versions = [update.policy_version for update in trainings.updates(training_id, 0)]
    database.close()
    return versions


def test_a_deterministic_training_depends_on_its_plan_and_on_the_decisions_alone(
    tmp_path: Path,
) -> None:
    versions = taught(tmp_path / "one", "one", [0, 1, 2, 3])
    assert len(set(versions)) == 2
    assert taught(tmp_path / "other", "of-another-name", [3, 0, 2, 1]) == versions


@pytest.mark.parametrize("dies_at", [5, 13])
def test_a_learner_that_dies_in_an_update_makes_it_again_just_the_same(
    tmp_path: Path, dies_at: int
) -> None:
    versions = taught(tmp_path / "living", "t", [0, 1, 2, 3])
    assert taught(tmp_path / "dying", "t", [0, 1, 2, 3], dies_at) == versions


async def kept(client: Client) -> list[object]:
    """What is to be had from a Simic: experience, versions with their artifacts, the training."""
    experience = client.experience.ReadEpisodes(ReadEpisodesRequest())
    read: list[object] = [record async for record in experience]
    for manifest in await manifests(client):
        request = DownloadPolicyRequest(policy_version=manifest.policy_version)
        pieces = client.registry.DownloadPolicy(request)
        read += [manifest, *[piece.chunk.data async for piece in pieces]]
    return [*read, await training(client)]


async def test_a_training_goes_on_in_a_simic_that_was_restored(tmp_path: Path) -> None:
    first, second = (SimicProcess(tmp_path / name) for name in ("first", "second"))
    backup = tmp_path / "backup.sqlite3"
    for simic in (first, second):
        simic.directory.mkdir()
    async with connected(first) as client:
        await start(client, max_updates=2)
        await play(client, 0, 2)
        await updated(client, 1)
        await play(client, 2, 1)
        expected = await kept(client)
        async with Experience((first.directory / "address").read_text().strip()) as experience:
            await experience.back_up(backup)
        await first.kill()

    restored = await second.restore(backup)
    assert restored == 0, (second.directory / "log").read_text()
    async with connected(second) as client:
        assert await kept(client) == expected
        await play(client, 3, 1)
        assert [update.sequence for update in await watch(client)] == [1, 2]
        assert (await training(client)).episodes == 4
    assert await second.stop() == 0
    assert await second.restore(backup) == 1
    assert "is not empty" in (second.directory / "log").read_text()
