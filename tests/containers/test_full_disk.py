"""A disk is full for a while, and what was sent meanwhile is stored once there is room again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.containers.stack import Stack, docker, eventually, stack
from tests.containers.test_faults import settled, spec

pytestmark = pytest.mark.timeout(1800)

SMALL_DISK = """
volumes:
  {volume}:
    driver_opts: {{type: tmpfs, device: tmpfs, o: "size={megabytes}m,mode=1777"}}
"""


@pytest.fixture(params=[("simic", ["sqlite"], 64), ("postgres", [], 256)], ids=lambda p: p[0])
def small(request: pytest.FixtureRequest, folder: Path) -> Iterator[tuple[Stack, str]]:
    """A stack whose experience is on a small disk; and the service whose disk it is."""
    volume, overrides, megabytes = request.param
    override = folder / "small.yml"
    override.write_text(SMALL_DISK.format(volume=volume, megabytes=megabytes))
    with stack(folder, [*overrides, override]) as one:
        one.up()
        yield one, volume


def test_the_disk_is_full_for_a_while(small: tuple[Stack, str]) -> None:
    one, service = small
    # Somebody has the volume all the time: one in memory is gone when the last one leaves it.
    holder = docker(
        *("run", "--rm", "--detach", "-v", f"{one.project}_{service}:/disk"),
        *("--entrypoint", "sleep", "postgres:17-trixie", "3600"),
    ).strip()
    try:
        one.start("full", spec(4))
        one.steps("full", 5)
        docker("exec", holder, "sh", "-c", "cat /dev/zero >/disk/filler; true", check=False)
        waiting = eventually(lambda: one.run("full").outbox_depth, "steps wait in the outbox")
        time.sleep(10)
        print(f"{waiting} steps waited at first, {one.run('full').outbox_depth} after 10 s")
        assert one.run("full").outbox_depth
        docker("exec", holder, "rm", "/disk/filler")
        settled(one, "full", 4)
    finally:
        docker("rm", "--force", holder, check=False)
