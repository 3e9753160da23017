"""Time that a test moves on by itself."""

from __future__ import annotations

import pytest

from simic.database import moment


class Clock:
    """The wall clock of this process's Simic."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._now = 1_800_000_000_000_000
        monkeypatch.setattr(moment, "now", lambda: self._now)

    def pass_s(self, seconds: float) -> None:
        """Let so much time pass."""
        self._now += round(seconds * 1e6)

    def pass_days(self, days: float) -> None:
        """Let so many days pass."""
        self.pass_s(days * 86_400)
