"""What an import reads, whatever the form of the file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from leyline.client import Episode
from leyline.files.error import NotExperience
from leyline.v1.transition_pb2 import Transition

Content = TypeVar("Content", bound=Message)


class Source(Protocol):
    """A file of experience."""

    @property
    def total_steps(self) -> int:
        """Steps that it says it has."""
        ...

    def episodes(self, run_id: str = "") -> Iterator[Episode]:
        """Yield its episodes one by one, of one run or of all.

        Raises:
            NotExperience: something in it cannot be read; the text says where.
        """
        ...


def parsed(kind: type[Content], data: bytes | None, path: Path, where: str) -> Content:
    """Return a message as a file has it. What should be bytes may be something else there.

    Raises:
        NotExperience: it is none.
    """
    try:
        return kind.FromString(data)  # type: ignore[arg-type]
    except (DecodeError, TypeError):
        raise NotExperience(path, f"{where} holds no {kind.DESCRIPTOR.name}") from None


def check_step(step: Transition, episode: Episode, path: Path, where: str) -> None:
    """Check that a step is one of the episode that it stands with.

    Raises:
        NotExperience: it is of another.
    """
    of = step.step_id.run_id, step.step_id.episode_index
    if of != episode.key:
        other = f"run {of[0]}, episode {of[1]}"
        raise NotExperience(path, f"{where} has a step of {other}, and the head of {episode}")
