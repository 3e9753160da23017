"""A full disk under a run: it waits, says so, and goes on by itself."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from tests.kasmina.neighbours import Experience, Policy, serving, until
from tests.kasmina.running import Kasmina, kasmina, small_spec

from chassis.errors import ErrorCode
from chassis.status import from_rpc_error
from kasmina.runs.disk import Disk, DiskFull, free_bytes
from kasmina.runs.journal import Journal
from leyline.v1.trainer_pb2 import (
    RUN_STATE_COMPLETED,
    RUN_STATE_PAUSED,
    RUN_STATE_RUNNING,
    RunSpec,
    WatchRunResponse,
)

_MEBIBYTE = 1 << 20


@dataclass
class SmallDisk:
    """A folder whose disk can be filled.

    Attributes:
        needed: bytes that count as enough room on it.
        swallowed: bytes that filling it takes; None is all that there are.
    """

    folder: Path
    needed: int
    swallowed: int | None

    @property
    def ballast(self) -> Path:
        """The file that fills it."""
        return self.folder / "ballast"

    def fill(self) -> None:
        """Leaves no room."""
        with self.ballast.open("wb", buffering=0) as file:
            if self.swallowed is not None:
                os.posix_fallocate(file.fileno(), 0, self.swallowed)
                return
            with contextlib.suppress(OSError):
                while file.write(bytes(4096)):
                    pass

    def empty(self) -> None:
        """Leaves room again."""
        self.ballast.unlink(missing_ok=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A file system of 24 MiB; where none may be mounted, the real one with a higher mark."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "leyline-test", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        disk = SmallDisk(folder, free_bytes(folder) - 256 * _MEBIBYTE, 512 * _MEBIBYTE)
        yield disk
        disk.empty()
        return
    try:
        yield SmallDisk(folder, 4 * _MEBIBYTE, None)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def health(service: Kasmina) -> int:
    """What the service's health says."""
    stub = health_pb2_grpc.HealthStub(service.channel)
    response = await stub.Check(health_pb2.HealthCheckRequest(service="leyline.v1.TrainerService"))
    return int(response.status)


async def health_is(service: Kasmina, status: int) -> None:
    """Waits for it."""
    while await health(service) != status:
        pass


def states(events: list[WatchRunResponse]) -> list[tuple[int, str]]:
    """The changes of state among the events."""
    return [
        (event.state_changed.state, event.state_changed.message)
        for event in events
        if event.WhichOneof("event") == "state_changed"
    ]


@pytest.mark.lengthy
async def test_a_full_disk_pauses_the_run_before_its_step_and_room_lets_it_go_on(
    small_disk: SmallDisk,
) -> None:
    policy, experience = Policy(), Experience()
    spec = small_spec(horizon=60)
    environment = {"LEYLINE_KASMINA_MIN_FREE_BYTES": str(small_disk.needed)}
    async with (
        serving(policy, experience) as neighbours,
        kasmina(small_disk.folder, neighbours, neighbours, environment) as service,
    ):
        await service.start_run("squeezed", spec)
        await until(lambda: len(policy.asked) >= 3)
        small_disk.fill()
        seen: list[WatchRunResponse] = []
        async for event in service.watch("squeezed"):
            seen.append(event)
            if event.state_changed.state == RUN_STATE_PAUSED:
                break
        await health_is(service, health_pb2.HealthCheckResponse.NOT_SERVING)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await service.start_run("another", spec)
        paused = await service.run("squeezed")
        small_disk.empty()
        async for event in service.watch("squeezed", after=seen[-1].sequence):
            seen.append(event)
        await health_is(service, health_pb2.HealthCheckResponse.SERVING)
        await until(lambda: len(experience.ends) == 1)

    assert from_rpc_error(refused.value).error_code is ErrorCode.DISK_FULL
    assert paused.state == RUN_STATE_PAUSED
    assert "no room on the disk" in paused.status_message
    assert str(small_disk.folder) in paused.status_message
    assert "MiB needed" in paused.status_message
    # It may have been squeezed again, while the disk was being emptied, but it always says so.
    after_pause = states(seen)[2:]
    assert [state for state, _ in after_pause[:2]] == [RUN_STATE_PAUSED, RUN_STATE_RUNNING]
    assert after_pause[-1] == (RUN_STATE_COMPLETED, "")
    assert [event.sequence for event in seen] == list(range(1, len(seen) + 1))
    assert [t.step_id.step for t in experience.episode("squeezed", 0)] == list(range(60))
    assert len(policy.asked) == 60


def test_what_cannot_be_written_is_a_full_disk_with_the_figures_that_help(
    small_disk: SmallDisk,
) -> None:
    journal = Journal(small_disk.folder / "journal.sqlite3")
    journal.runs.create("kept", RunSpec(), RunSpec(), queue_limit=10_000)
    disk = Disk(small_disk.folder, small_disk.folder / "reserve", small_disk.needed)
    disk.require_room()
    small_disk.fill()

    with pytest.raises(DiskFull) as full:
        disk.require_room()
    assert full.value.needed == small_disk.needed
    assert full.value.free < small_disk.needed

    small_disk.empty()
    disk.require_room()
    assert [run.run_id for run in journal.runs.page(None, 10)] == ["kept"]
    journal.close()


def test_the_reserve_has_room_for_the_words_that_there_is_none(small_disk: SmallDisk) -> None:
    journal = Journal(small_disk.folder / "journal.sqlite3")
    journal.runs.create("full", RunSpec(), RunSpec(), queue_limit=1)
    disk = Disk(small_disk.folder, small_disk.folder / "reserve", 0)
    disk.require_room()
    small_disk.fill()
    disk.give_up_reserve()

    journal.runs.change("full", RUN_STATE_PAUSED, "no room")

    record = journal.runs.get("full")
    assert record is not None
    assert record.status_message == "no room"
    assert journal.events.after("full", 1)[0].state_changed.state == RUN_STATE_PAUSED
    journal.close()
