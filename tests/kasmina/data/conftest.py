from __future__ import annotations

from pathlib import Path

import pytest

from kasmina.data.dataset import DatasetSettings


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """An empty place for data."""
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
def settings(tmp_path: Path, data: Path) -> DatasetSettings:
    """CIFAR-100 in the empty place, and a place for copies."""
    return DatasetSettings("cifar100", data, cache=tmp_path / "cache", validation_images=4)
