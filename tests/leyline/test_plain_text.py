"""A token is in plain text on this machine alone, and there only where it is meant to be."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2_grpc  # type: ignore[import-untyped]
from grpc_health.v1.health import aio  # type: ignore[import-untyped]
from tests.chassis.certificates import Certificates

from leyline.channel import Credentials, CredentialsError, FileChannel
from leyline.cli.application import run
from leyline.client import Client
from leyline.conformance import Target
from leyline.conformance.checks.security import refuses_plain_text
from leyline.v1.policy_pb2 import GetPolicyInfoResponse

TOKEN = "of-this-user"


@pytest.fixture
def token(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    return file


@pytest.fixture
async def address() -> AsyncIterator[str]:
    """A server in plain text on this machine."""
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(aio.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


@contextmanager
def listening() -> Iterator[tuple[str, list[bytes]]]:
    """Somebody who takes connections and hears what is said first; his address."""
    heard: list[bytes] = []

    def listen(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(0.5)
                try:
                    while content := connection.recv(65536):
                        heard.append(content)
                except OSError:
                    pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=listen, args=(listener,))
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", heard
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "grpc_proxy"])
async def test_calls_to_this_machine_go_through_no_proxy(
    address: str, token: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    for unset in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(unset, raising=False)
    with listening() as (proxy, heard):
        monkeypatch.setenv(variable, f"http://{proxy}")
        async with Client(address, Credentials(token=token)) as client:
            assert await client.health() == "SERVING"
        async with Target(address, token=TOKEN).connect() as connection:
            assert await connection.health("") == "SERVING"
    assert not heard


async def test_no_token_goes_to_another_machine_in_plain_text(
    token: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CredentialsError, match=r"go to gpu7:50052 in plain text"):
        FileChannel("gpu7:50052", Credentials(token=token), ())
    with pytest.raises(CredentialsError, match=r"go to gpu7:50052 in plain text"):
        await Target("gpu7:50052", token=TOKEN).introduced()


def test_the_conformance_suite_sends_its_token_to_no_other_machine_in_plain_text(
    token: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["conformance", "192.0.2.1:50052", "--token-file", str(token)]) == 1
    assert "would go to 192.0.2.1:50052 in plain text" in capsys.readouterr().err


async def test_whoever_might_answer_in_plain_text_is_not_shown_the_token_to_find_out(
    tmp_path: Path,
) -> None:
    with listening() as (address, heard):
        target = Target(
            address,
            Credentials(Certificates(tmp_path).ca),
            TOKEN,
            info=GetPolicyInfoResponse(),
        )
        await refuses_plain_text(target)
    assert b"PRI * HTTP/2.0" in b"".join(heard), "it did speak plain text"
    assert TOKEN.encode() not in b"".join(heard)


@contextmanager
def somebody_without_a_home(folder: Path) -> Iterator[None]:
    """Be a user who may not look into a folder; root may, unless he becomes somebody else."""
    folder.chmod(0)
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(was)
        folder.chmod(0o700)


async def test_a_home_that_is_another_s_is_said(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    with (
        somebody_without_a_home(tmp_path),
        pytest.raises(CredentialsError, match="HOME or XDG_STATE_HOME must be a folder of this"),
    ):
        FileChannel(address, Credentials(), ())


async def test_no_home_at_all_is_said(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME")

    def nowhere() -> Any:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nowhere)
    with pytest.raises(CredentialsError, match="Set HOME or XDG_STATE_HOME"):
        FileChannel(address, Credentials(), ())
