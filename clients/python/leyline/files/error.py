"""What is wrong with a file, or with what should become one."""

from __future__ import annotations

from pathlib import Path

FOREIGN = "it is not what `leyline experience export` writes"
"""What is said of a file of another program."""


class FileRefused(Exception):
    """A file is not written, or not read to its end. The text says why, and what to do."""


class NotExperience(FileRefused):
    """A file is no experience of this format, or it is damaged."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} cannot be read as experience: {why}")
        self.path = path


class NothingSelected(FileRefused):
    """There is no episode to write."""

    def __init__(self, destination: str) -> None:
        super().__init__(
            f"{destination} was not written: there is no such episode with steps; "
            f"`leyline experience stats` counts what is stored"
        )
