"""`leyline up` over real processes: what crashes is started again, and nothing is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from leyline.v1 import experience_pb2_grpc, policy_pb2_grpc, trainer_pb2_grpc
from leyline.v1.experience_pb2 import GetStatisticsRequest
from leyline.v1.policy_pb2 import GetPolicyInfoRequest
from leyline.v1.trainer_pb2 import ListRunsRequest

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


def calls(up: Up) -> Iterator[Callable[..., object]]:
    """A call of each service, by somebody whom nothing shows a token."""
    with contextlib.ExitStack() as closing:
        for name, stub, method, request in (
            ("kasmina", trainer_pb2_grpc.TrainerServiceStub, "ListRuns", ListRunsRequest()),
            ("tamiyo", policy_pb2_grpc.PolicyServiceStub, "GetPolicyInfo", GetPolicyInfoRequest()),
            (
                "simic",
                experience_pb2_grpc.ExperienceServiceStub,
                "GetStatistics",
                GetStatisticsRequest(),
            ),
        ):
            channel = closing.enter_context(grpc.insecure_channel(up.addresses[name]))
            yield partial(getattr(stub(channel), method), request)


def test_only_its_user_may_call_the_services(up: StartUp) -> None:
    one = up("--policy", "wait")
    assert one.token is not None
    assert stat.S_IMODE(one.token.stat().st_mode) == 0o600
    token = one.token.read_text().strip()
    assert token not in (one.directory / "tokens").read_text()
    for call in calls(one):
        with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
            call()
        call(metadata=[("authorization", f"Bearer {token}")])


def test_open_services_take_calls_of_every_user(up: StartUp) -> None:
    one = up("--policy", "wait", "--open")
    assert one.token is None
    for call in calls(one):
        call()


def test_a_run_under_up_is_decided_and_stored_by_services_that_ask_for_the_token(
    up: StartUp,
) -> None:
    one = up("--policy", "random")
    spec = {"host": {"name": "simulator"}, "training": {"horizon": 4}, "episodes": 1}
    path = one.directory / "run.json"
    path.write_text(json.dumps(spec))
    started = one.command("run", "start", str(path), "--id", "one", "--watch")
    assert started.returncode == 0, started.stderr

    def stored() -> bool:
        counted = one.command("experience", "stats", "--json").stdout
        return bool(json.loads(counted)["transitions"] == "4")

    eventually(stored, "what was decided is stored")
