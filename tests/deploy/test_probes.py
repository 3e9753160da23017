"""What the manifests ask a service with, asked of one."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys

import pytest
import yaml
from tests.deploy.rendering import MANIFESTS

from chassis.server import Server
from chassis.settings import ServerSettings, load


def options(kind: str) -> tuple[str, ...]:
    """Those of `leyline health` in the probes of a kind, which are the same for each service."""
    found = set()
    for service in ("kasmina", "tamiyo", "simic"):
        for manifest in yaml.safe_load_all((MANIFESTS / "base" / f"{service}.yaml").read_text()):
            if "template" in manifest.get("spec", {}):
                (container,) = manifest["spec"]["template"]["spec"]["containers"]
                leyline, health, _, *rest = container[f"{kind}Probe"]["exec"]["command"]
                # A shell would leave zombies behind when a probe is killed.
                assert (leyline, health) == ("leyline", "health")
                found.add(tuple(rest))
    (same,) = found
    return same


async def asked(address: str, *options: str) -> tuple[int, str]:
    """The exit code of a probe of the server at an address, and what it says."""
    done = await asyncio.to_thread(
        subprocess.run,
        (sys.executable, "-P", "-m", "leyline.cli", "health", address, *options),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("serves", [True, False])
async def test_a_service_that_does_not_serve_lives_and_is_not_ready(serves: bool) -> None:
    settings = load(ServerSettings, listen="127.0.0.1:0", drain_grace_s=0.5)
    async with Server(settings, []) as server:
        if serves:
            server.set_serving()
        address = str(server.address)
        for kind, code in (("startup", 0), ("liveness", 0), ("readiness", 0 if serves else 1)):
            found, said = await asked(address, *options(kind))
            assert found == code, f"{kind}: {said}"


async def test_one_that_does_not_answer_does_not_live() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        code, said = await asked(address, *options("liveness")[:-1], "--timeout=0.5")
    assert code == 1
    assert "within 0.5 s" in said
