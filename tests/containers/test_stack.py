"""`docker compose up`: healthy, a demonstration from outside, nothing lost over `down` and `up`.

Also what the containers may do, and who may speak with them.
"""

from __future__ import annotations

import asyncio
import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tests.containers.stack import BUILD_S, SERVICES, Stack, docker, docker_json, stack
from tests.e2e.readme import ROOT, compose_commands

from leyline.client import Experience, Registry, Trainer

pytestmark = pytest.mark.timeout(BUILD_S)

SHARED_DATA = ROOT.parent / "shared/data"
OURS = ("simic", "tamiyo", "kasmina")
MOST_OF_TAMIYO = 200e6
BASE = {"postgres": "postgres:17-trixie"}


async def kept(one: Stack) -> dict[str, Any]:
    """What a stack must not forget."""
    credentials = one.credentials()
    async with (
        Experience(one.address("simic"), credentials) as experience,
        Registry(one.address("simic"), credentials) as registry,
        Trainer(one.address("kasmina"), credentials) as trainer,
    ):
        counted = await experience.statistics()
        return {
            "transitions": counted.transitions,
            "episodes": (counted.episodes, counted.episodes_ended),
            "runs": {run.run_id: run.steps_completed async for run in trainer.list()},
            "versions": [manifest.policy_version async for manifest, _ in registry.list()],
        }


def test_the_stack_comes_up_runs_the_demo_and_keeps_everything(folder: Path) -> None:
    up, demo, down = compose_commands()
    data = {"LEYLINE_DATA": str(SHARED_DATA)} if (SHARED_DATA / "cifar100").is_dir() else {}
    with stack(folder, **data) as one:
        started = time.monotonic()
        one.type(up)
        print(f"healthy after {time.monotonic() - started:.1f} s")
        for service in SERVICES:
            state = one.inspect(service)["State"]
            assert state["Health"]["Status"] == "healthy"
            print(f"{service}: healthy {health_delay(state):.1f} s after its start")
        if data:
            (mount,) = (
                each for each in one.inspect("kasmina")["Mounts"] if each["Destination"] == "/data"
            )
            assert not mount["RW"]
        shown = one.type(demo)
        print(shown[-3000:])
        assert ("cifar100" if data else "digits") in shown
        before = asyncio.run(kept(one))
        assert before["transitions"] > 0
        assert before["episodes"][0] == before["episodes"][1]
        assert len(before["versions"]) > 1
        assert before["runs"]

        one.type(down)
        one.type(up)

        assert asyncio.run(kept(one)) == before


def health_delay(state: dict[str, Any]) -> float:
    """Seconds from a container's start to the end of the probe that found it healthy."""
    started = _seconds(state["StartedAt"])
    good = [_seconds(probe["End"]) for probe in state["Health"]["Log"] if probe["ExitCode"] == 0]
    return min(good) - started


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp[:26].rstrip("Z") + "+00:00").timestamp()


def test_images_are_no_larger_above_their_base_than_they_need_be(images: None) -> None:
    base = docker_json("image", "inspect", "python:3.13-slim-trixie")["Size"]
    above = {
        name: docker_json("image", "inspect", f"leyline-{name}")["Size"] - base
        for name in (*OURS, "client")
    }
    for name, size in above.items():
        print(f"leyline-{name}: {size / 1e6:.0f} MB above its base")
    assert above["tamiyo"] <= MOST_OF_TAMIYO


def test_ports_are_published_on_loopback_only(running: Stack) -> None:
    for service in SERVICES:
        published = running.inspect(service)["NetworkSettings"]["Ports"]
        for bindings in published.values():
            for binding in bindings or ():
                assert binding["HostIp"] == "127.0.0.1", (service, published)
    assert not any(running.inspect("postgres")["NetworkSettings"]["Ports"].values())


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_can_do_nothing_that_it_need_not(running: Stack, service: str) -> None:
    found = running.inspect(service)
    host = found["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert host["Memory"] > 0
    assert host["PidsLimit"] > 0
    assert host["LogConfig"]["Config"] == {"max-file": "3", "max-size": "10m"}
    (container,) = running.containers(service)
    assert docker("exec", container, "id", "-u").strip() != "0"
    written = docker("exec", container, "sh", "-c", "touch /usr/x /etc/x 2>&1 || true")
    assert written.count("Read-only file system") == 2
    status = docker("exec", container, "cat", "/proc/1/status")
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff"))
    assert int(effective, 16) == 0


# What somebody in another container on the services' network gets for an answer.

ASKING = {
    "kasmina": "run list --kasmina kasmina:50051",
    "tamiyo": "conformance tamiyo:50052 --level core",
    "simic": "experience stats --simic simic:50053",
}


def stranger(one: Stack, script: str, volume: str | None = None) -> tuple[int, str]:
    """Run a script in a container of the client's image; the last exit code, and what it said."""
    mount = ("-v", f"{one.project}_{volume}:/certs:ro") if volume else ()
    command = ("run", "--rm", "--network", f"{one.project}_leyline", *mount, "--entrypoint", "sh")
    said = docker(*command, "leyline-client", "-c", f"({script}) 2>&1; echo $?")
    *lines, code = said.splitlines()
    return int(code), "\n".join(lines)


@pytest.mark.parametrize("service", OURS)
def test_who_shows_no_certificate_is_refused(running: Stack, service: str) -> None:
    shown = "--ca /certs/ca.pem --token-file /certs/token"
    code, said = stranger(running, f"leyline {ASKING[service]} {shown}", "certs-operator")
    assert code != 0
    assert "UNAVAILABLE" in said or "no server at" in said, said


@pytest.mark.parametrize("service", OURS)
def test_who_shows_a_certificate_of_another_authority_is_refused(
    running: Stack, service: str
) -> None:
    script = f"""
        leyline certs init /tmp/others >/dev/null &&
        leyline {ASKING[service]} --credentials /tmp/others/operator --ca /certs/ca.pem
    """
    code, said = stranger(running, script, "certs-operator")
    assert code != 0
    assert "UNAVAILABLE" in said or "no server at" in said, said


@pytest.mark.parametrize("service", OURS)
def test_who_shows_no_token_is_refused(running: Stack, service: str) -> None:
    shown = "--ca /certs/ca.pem --certificate /certs/certificate.pem --key /certs/key.pem"
    code, said = stranger(running, f"leyline {ASKING[service]} {shown}", "certs-operator")
    assert code != 0
    assert "the call carries no token" in said


@pytest.mark.parametrize(
    ("service", "volume"),
    [("kasmina", "certs-tamiyo"), ("tamiyo", "certs-tamiyo"), ("simic", "certs-kasmina")],
)
def test_who_shows_a_token_of_the_wrong_scope_is_refused(
    running: Stack, service: str, volume: str
) -> None:
    code, said = stranger(running, f"leyline {ASKING[service]} --credentials /certs", volume)
    assert code != 0
    assert "is not for the token of" in said


def test_who_shows_what_is_asked_for_is_served(running: Stack) -> None:
    for command in (ASKING["kasmina"], ASKING["simic"]):
        code, said = stranger(running, f"leyline {command} --credentials /certs", "certs-operator")
        assert code == 0, said


def test_the_database_is_out_of_reach(running: Stack) -> None:
    asked = "import socket; socket.create_connection(('postgres', 5432), 5)"
    code, said = stranger(running, f'python3 -c "{asked}"')
    assert code != 0
    assert "Name or service not known" in said or "failure in name resolution" in said, said


def test_certificates_are_replaced_without_a_restart(running: Stack) -> None:
    (container,) = running.containers("simic")
    started = docker_json("inspect", container)["State"]["StartedAt"]
    before = asyncio.run(kept(running))
    renew = ("certs", "renew", "/certs")
    running.compose("run", "--rm", "-T", "--entrypoint", "leyline", "certs", *renew)
    running.forget_credentials()
    assert asyncio.run(kept(running)) == before
    assert docker_json("inspect", container)["State"]["StartedAt"] == started
    assert json.loads(running.cli("health", "simic:50053", "--json").stdout)["status"] == "SERVING"
