"""The images, built once, and a stack for the tests of a file.

Needs a Docker engine: where there is none these tests fail and say so, because a stack that nobody
started is not tested.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.containers.stack import BUILD_S, Stack, stack


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Builds what the compose files name."""
    engine = subprocess.run(["docker", "info"], capture_output=True, text=True, check=False)
    if engine.returncode != 0:
        pytest.fail(f"no Docker engine answers; start one and run this again.\n{engine.stderr}")
    every = ("postgres", "simic", "tamiyo", "kasmina", "cli", "prometheus")
    for overrides, services in ([], every), (["tamiyo-go"], ["tamiyo"]):
        builder = Stack(tmp_path_factory.mktemp("build"), overrides)
        builder.compose("--profile", "*", "build", "--quiet", *services, timeout_s=BUILD_S)


@pytest.fixture(scope="module")
def running(images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack as it comes, all of it healthy, for the tests of a module."""
    with stack(tmp_path_factory.mktemp("stack")) as one:
        one.up()
        yield one


@pytest.fixture
def folder(tmp_path: Path, images: None) -> Path:
    """A folder for a stack of a test's own, whose images are there."""
    return tmp_path
