"""Programs in Go, built for a test."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

needs_go = pytest.mark.skipif(
    shutil.which("go") is None, reason="the Go toolchain is not installed here"
)


def build(package: str, into: Path) -> Path:
    """Builds a package by its path in the repository; returns the program.

    Raises:
        AssertionError: it does not compile; the message is what the compiler says.
    """
    program = into / Path(package).name
    done = subprocess.run(
        ["go", "build", "-buildvcs=false", "-o", program, "."],
        cwd=ROOT / package,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return program
