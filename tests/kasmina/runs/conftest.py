"""What tests of runs share."""

from __future__ import annotations

from pathlib import Path

import pytest

from kasmina.settings import KasminaSettings


@pytest.fixture
def settings(tmp_path: Path) -> KasminaSettings:
    """Settings of a service with nothing but digits."""
    return KasminaSettings(state_dir=tmp_path, data=tmp_path / "data", decision_timeout_s=3.0)
