"""What can be wrong with a dataset, said so that the reader knows what to do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class DatasetError(Exception):
    """A dataset that cannot be used."""


class UnknownDataset(DatasetError, ValueError):
    """No dataset of that name is known."""

    def __init__(self, name: str, known: Sequence[str], looked_in: Sequence[Path] = ()) -> None:
        places = f"; no folder of that name in {', '.join(map(str, looked_in))}" * bool(looked_in)
        super().__init__(f"unknown dataset {name!r}; known datasets: {', '.join(known)}{places}")
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

    verdict = "is damaged"
    remedy = "Replace it with a whole copy."

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} {self.verdict}: {why}. {self.remedy}")
        self.path = path
        self.why = why


class DatasetUnsuitable(DatasetCorrupt):
    """A file of the dataset is sound, and holds what cannot be used."""

    verdict = "cannot be used"
    remedy = "Change it, or take it away."


class ImageSizesDiffer(DatasetUnsuitable):
    """An image has another size than the rest."""

    remedy = "Set image_size: images are then resized to squares of that side."


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


class DatasetTooLarge(DatasetError, ValueError):
    """The decoded images would take more memory than they may."""

    def __init__(self, name: str, size: int, limit: int) -> None:
        super().__init__(
            f"the images of {name} take {size:,} bytes in memory; max_bytes allows {limit:,}."
            " Set image_size to make them smaller, or raise max_bytes."
        )
        self.name = name
        self.size = size
        self.limit = limit


class PlugInFailed(DatasetError):
    """A package offers the dataset and does not deliver it."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"the package that offers the dataset {name!r} does not deliver it: {why}")
        self.name = name
        self.why = why
