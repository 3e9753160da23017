"""Services as real processes: exit codes, signals, and what they say."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from tests.collecting import without_opentelemetry

_DESK = Path(__file__).with_name("desk.py")
Desk = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def desk() -> Iterator[Desk]:
    """Start desk.py in a mode, with settings by name."""
    started: list[subprocess.Popen[str]] = []

    def start(mode: str, **settings: str) -> subprocess.Popen[str]:
        variables = {f"LEYLINE_DESK_{name.upper()}": value for name, value in settings.items()}
        process = subprocess.Popen(
            [sys.executable, str(_DESK), mode],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **variables},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def _wait_for(process: subprocess.Popen[str], event: str) -> dict[str, str]:
    """Read the log until an event, and give its line."""
    assert process.stderr is not None
    for text in process.stderr:
        line: dict[str, str] = json.loads(text)
        if line["event"] == event:
            return line
    pytest.fail(f"{event!r} was never logged; exit code {process.wait()}")


def _said(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=60)
    return process.returncode, said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_with_success(desk: Desk, number: signal.Signals) -> None:
    process = desk("serves")
    _wait_for(process, "serving")
    process.send_signal(number)
    code, said = _said(process)
    events = [json.loads(line)["event"] for line in said.splitlines()]
    assert (code, events) == (0, ["signal", "draining", "stopped"])


def test_an_endpoint_for_traces_without_the_extra_is_refused_by_the_extra_s_name(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in without_opentelemetry(tmp_path).items():
        monkeypatch.setenv(name, value)
    code, said = _said(desk("serves", trace_endpoint="127.0.0.1:4317"))
    assert said == (
        "leyline desk: error: LEYLINE_DESK_TRACE_ENDPOINT=127.0.0.1:4317: tracing needs "
        "opentelemetry, which is not installed: pip install 'leyline-growth[tracing]'\n"
    )
    assert code == 2
    process = desk("serves")
    _wait_for(process, "serving")


def test_a_signal_during_start_up_ends_that_too(desk: Desk) -> None:
    process = desk("loads_for_ever")
    _wait_for(process, "listening")
    process.terminate()
    assert _said(process)[0] == 0


def test_work_around_the_server_outlives_its_drain(desk: Desk) -> None:
    process = desk("has_background_work")
    _wait_for(process, "serving")
    process.terminate()
    code, said = _said(process)
    events = [json.loads(line)["event"] for line in said.splitlines()]
    assert (code, events) == (0, ["signal", "draining", "stopped", "work ended"])


def test_an_open_health_watch_does_not_hold_the_drain(desk: Desk) -> None:
    # A grace of an hour: if the watch held the drain, the test would time out.
    process = desk("serves", drain_grace_s="3600")
    address = _wait_for(process, "serving")["address"]
    with grpc.insecure_channel(address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        process.terminate()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert _said(process)[0] == 0


def test_a_service_that_ends_by_itself_succeeds(desk: Desk) -> None:
    assert _said(desk("ends")) == (0, "")


def test_a_wrong_setting_is_one_line_and_exit_code_2(desk: Desk) -> None:
    code, said = _said(desk("serves", keepalive_s="1"))
    assert code == 2
    assert said == (
        "leyline desk: error: LEYLINE_DESK_KEEPALIVE_S=1: "
        "input should be greater than or equal to 10\n"
    )


def test_plain_text_for_other_machines_is_one_line_and_exit_code_2(desk: Desk) -> None:
    code, said = _said(desk("serves", listen="0.0.0.0:0"))
    assert code == 2
    assert said.startswith("leyline desk: error: LEYLINE_DESK_LISTEN=0.0.0.0:0 would take plain")
    assert len(said.splitlines()) == 1


def test_a_certificate_that_is_not_there_is_one_line_and_exit_code_2(
    desk: Desk, tmp_path: Path
) -> None:
    missing = str(tmp_path / "missing.pem")
    code, said = _said(desk("serves", tls_certificate=missing, tls_key=missing))
    assert code == 2
    assert said.splitlines() == [
        f"leyline desk: error: {missing} cannot be read: No such file or directory"
    ]


def test_a_port_in_use_is_one_line_and_exit_code_3(desk: Desk) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        code, said = _said(desk("serves", listen=address))
    assert code == 3
    assert said == (
        f"leyline desk: error: {address} is in use by another process; stop it, "
        "or set LEYLINE_DESK_LISTEN (--listen) to another address\n"
    )


def test_two_services_never_share_a_port(desk: Desk) -> None:
    address = _wait_for(desk("serves"), "listening")["address"]
    assert _said(desk("serves", listen=address))[0] == 3


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("cannot_start", "the store is locked by process 7; stop that one first"),
        ("lacks_data", "dataset 'd' cannot be read: f: truncated"),
    ],
)
def test_what_keeps_a_service_from_starting_is_one_line(desk: Desk, mode: str, says: str) -> None:
    assert _said(desk(mode)) == (1, f"leyline desk: error: {says}\n")


def test_a_bug_is_logged_with_its_traceback_and_fails(desk: Desk) -> None:
    code, said = _said(desk("crashes"))
    line = json.loads(said)
    assert code == 1
    assert (line["event"], line["level"], line["service"]) == ("failed", "critical", "desk")
    assert "RuntimeError: a bug" in line["exception"]


def test_the_port_file_has_the_address_that_was_bound(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "address"
    process = desk("serves", port_file=str(file))
    address = _wait_for(process, "serving")["address"]
    assert file.read_text() == f"{address}\n"
    assert not address.endswith(":0")


def test_logs_are_json_lines_off_a_terminal_with_what_the_call_bound(desk: Desk) -> None:
    _, said = _said(desk("logs"))
    structured, library = (json.loads(line) for line in said.splitlines())
    bound = {"service": "desk", "run_id": "r", "episode": 3, "policy_version": "v"}
    assert bound.items() <= structured.items()
    assert (structured["event"], structured["loss"], structured["reward"]) == (
        "structured",
        "nan",
        0.5,
    )
    assert bound.items() <= library.items()
    assert (library["event"], library["level"], library["logger"]) == (
        "from a library",
        "warning",
        "library",
    )


def test_logs_are_for_people_on_a_terminal() -> None:
    leader, follower = pty.openpty()
    with subprocess.Popen([sys.executable, str(_DESK), "logs"], stderr=follower) as process:
        os.close(follower)
        said = b""
        # A terminal whose last process has gone reads as an error, not as an end.
        while piece := _read(leader):
            said += piece
        assert process.wait() == 0
    os.close(leader)
    assert b"structured" in said
    assert not said.lstrip().startswith(b"{")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""
