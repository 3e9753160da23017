"""A stack of real processes for each test that asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.stack import Stack


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A stack with the learned policy; nothing runs yet."""
    stack = Stack(tmp_path)
    yield stack
    stack.close()
