"""What every test has: one Hypothesis profile, and a log of its own."""

from __future__ import annotations

import os
import tempfile

import pytest
import structlog
from hypothesis import settings

# No deadline: nothing is timed in a test. In CI the examples are the same on every run of a commit.
settings.register_profile("desk", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "desk")

# The token of this machine's user is not for tests, nor would a test's be for him.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="leyline-state-")


@pytest.fixture(autouse=True)
def log_of_its_own() -> None:
    """Forget what an earlier test's calls have bound, and where an attached script's log went.

    Both are meant to be a process's, and a worker is one process for many tests.
    """
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()
