"""What every test has: one Hypothesis profile."""

from __future__ import annotations

import os

from hypothesis import settings

# No deadline: nothing is timed in a test. In CI the examples are the same on every run of a commit.
settings.register_profile("desk", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "desk")
