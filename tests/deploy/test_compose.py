"""What holds of every service of the compose file, whichever override is laid over it."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.readme import ROOT

OVERRIDES = sorted((ROOT / "deploy/compose").glob("*.yml"))
# What ends by itself.
JOBS = {"certs", "cli", "demo", "migrate"}


@pytest.fixture(scope="module", params=[None, *OVERRIDES], ids=lambda p: p.stem if p else "alone")
def services(request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    """Every service of the compose file under an override, as compose understands it."""
    override: Path | None = request.param
    files = ["-f", "docker-compose.yml", *(["-f", str(override)] if override else [])]
    done = subprocess.run(
        ["docker", "compose", *files, "--profile", "*", "config", "--format", "json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)["services"]
    return found


def test_ports_are_published_on_loopback_and_each_once(services: dict[str, dict[str, Any]]) -> None:
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}
    assert max(Counter(port["published"] for port in published).values()) == 1


def test_every_container_is_confined(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service["read_only"], name
        assert service["init"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("privileged"), name
        assert not service.get("cap_add"), name
        assert {"max-size", "max-file"} <= service["logging"]["options"].keys(), name


def test_what_stays_up_is_limited_and_restarted_and_ends_in_peace(
    services: dict[str, dict[str, Any]],
) -> None:
    for name, service in services.items():
        if name in JOBS:
            continue
        assert service["restart"] == "unless-stopped", name
        assert service["stop_grace_period"] == "30s", name
        assert int(service["mem_limit"]) > 0, name
        assert service["pids_limit"] > 0, name
