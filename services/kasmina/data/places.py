"""Where datasets are looked for."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def data_roots(location: Path | None) -> Sequence[Path]:
    """Folders that may hold datasets: the one given, else $LEYLINE_DATA, else shared/data beside
    the project."""
    if location is not None:
        return [location.absolute()]
    chosen = os.environ.get("LEYLINE_DATA")
    if chosen:
        return [Path(chosen).absolute()]
    checkout = Path(__file__).parents[3]
    projects = [Path.cwd(), *([checkout] if (checkout / "pyproject.toml").is_file() else [])]
    return [project.absolute().parent / "shared" / "data" for project in dict.fromkeys(projects)]


def is_folder_name(name: str) -> bool:
    """Whether a dataset's name may name a folder: it comes from callers, and must not lead out of
    the place for data."""
    return _FOLDER_NAME.fullmatch(name) is not None


def parquet_shards(folder: Path, split: str) -> list[Path]:
    """Shards of a split in the Hugging Face Hub's layout, in or under `folder`; perhaps none."""
    for place in (folder, folder / "data"):
        shards = sorted(place.glob(f"{split}-*.parquet"))
        if shards:
            return shards
    return []
