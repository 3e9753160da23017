"""What can be wrong with a dataset, said so that the reader knows what to do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class DatasetError(Exception):
    """A dataset that cannot be used."""


class UnknownDataset(DatasetError, ValueError):
    """No dataset of that name is known."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"unknown dataset {name!r}; known datasets: {', '.join(known)}")
        self.name = name
        self.known = tuple(known)


class DatasetNotFound(DatasetError):
    """The dataset is in none of the places where it was looked for."""

    def __init__(self, name: str, looked_in: Sequence[Path], wanted: Sequence[str]) -> None:
        places = "".join(f"\n  {path}" for path in looked_in)
        super().__init__(
            f"no {name} data found; looked in:{places}\n"
            f"Put {' or '.join(wanted)} there, or set LEYLINE_DATA to a folder that holds {name}/."
            f" Nothing is downloaded. The digits dataset needs no files."
        )
        self.name = name
        self.looked_in = tuple(looked_in)


class DatasetCorrupt(DatasetError):
    """A file of the dataset does not hold what it should."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} is damaged: {why}. Replace it with a whole copy.")
        self.path = path
        self.why = why


class DatasetTooSmall(DatasetError, ValueError):
    """More images were asked for than there are."""

    def __init__(self, name: str, wanted: int, available: int) -> None:
        super().__init__(
            f"{name} has {available} training images; {wanted} were asked for"
            " (training and validation images together)"
        )
        self.name = name
        self.wanted = wanted
        self.available = available
