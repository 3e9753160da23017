"""`leyline up` over real processes: what crashes is started again, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.leyline.conftest import StartUp, Up

SERVICES = {"kasmina", "tamiyo", "simic"}


def eventually(holds: Callable[[], bool], what: str, within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def serves(up: Up, name: str) -> bool:
    return up.command("health", up.addresses[name]).returncode == 0


def test_a_killed_service_serves_again_at_its_address(up: StartUp) -> None:
    one = up("--policy", "wait")
    before = one.service_pids()
    assert set(before) == SERVICES
    os.kill(before["tamiyo"], signal.SIGKILL)
    eventually(lambda: one.service_pids().get("tamiyo") not in (None, before["tamiyo"]), "restart")
    eventually(lambda: serves(one, "tamiyo"), "Tamiyo serves again")
    after = one.service_pids()
    assert {name for name in SERVICES if before[name] != after[name]} == {"tamiyo"}


def test_a_folder_of_the_packages_name_is_not_taken_for_it(up: StartUp, tmp_path: Path) -> None:
    # As where the project was cloned to.
    (tmp_path / "leyline").mkdir()
    (tmp_path / "kasmina").mkdir()
    one = up("--policy", "wait", cwd=tmp_path)
    assert set(one.service_pids()) == SERVICES


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_drains_all_services(up: StartUp, number: int) -> None:
    one = up("--policy", "wait")
    pids = one.service_pids()
    assert one.end(number) == 0
    assert not any(is_alive(pid) for pid in pids.values())
    for name in SERVICES:
        assert "stopped" in (one.directory / "logs" / f"{name}.log").read_text()


def test_services_do_not_outlive_a_supervisor_that_is_killed(up: StartUp) -> None:
    one = up("--policy", "wait")
    pids = one.service_pids()
    one.end(signal.SIGKILL)
    eventually(lambda: not any(is_alive(pid) for pid in pids.values()), "all ended")


def test_a_service_that_cannot_start_ends_all_and_its_own_words_are_shown(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            [
                *(sys.executable, "-m", "leyline.cli", "up", "--dir", str(tmp_path), "--quiet"),
                *("--kasmina", "127.0.0.1:0", "--tamiyo", "127.0.0.1:0", "--simic", address),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert f"{address} is in use" in done.stderr
    assert "leyline: simic ended with exit code 3 before it could serve" in done.stderr
