"""The study's folder: whose it is, what it was made with, and how far the study is.

Runs, experience and versions are the services' own; here is only what they cannot know.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.studies.growing.problem import StudyError

_SAVE_EVERY_S = 5.0
_SERVICES_END_S = 120.0


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other invocations out of a folder, which is made where it is not there.

    Raises:
        StudyError: another one has it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / "study.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StudyError(f"{folder} cannot be used: {error}; give another --folder") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
            raise StudyError(
                f"{folder} is locked by another invocation (process {holder}): wait for it, stop"
                " it, or give another --folder"
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)


def wait_for_services(folder: Path) -> None:
    """Waits for services of an invocation that was killed: they end by themselves.

    Raises:
        StudyError: they do not.
    """
    deadline = time.monotonic() + _SERVICES_END_S
    for lock in (*folder.glob("*/service.lock"), *folder.glob("*/lock")):
        with lock.open("rb") as file:
            while not _is_free(file.fileno()):
                if time.monotonic() > deadline:
                    holder = lock.read_text(errors="replace").strip()
                    raise StudyError(f"a service still uses {lock.parent} ({holder}): stop it")
                time.sleep(0.1)


def _is_free(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(handle, fcntl.LOCK_UN)
    return True


@dataclass
class State:
    """What is known of the study, in a file that is there whole or as it was before.

    Attributes:
        config: what results depend on. A folder has one.
        seconds: wall time that each stage has taken so far, over all invocations.
        version: what the training came to; empty until it is over.
        schedule: the best fixed one, by name; empty until the search is over.
        searched: what each schedule gained over its twin, episode by episode.
    """

    path: Path
    config: Mapping[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)
    version: str = ""
    schedule: str = ""
    searched: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, config: Mapping[str, Any]) -> State:
        """The folder's state, or a fresh one.

        Raises:
            StudyError: the folder was made with another configuration, or its file is not ours.
        """
        path = folder / "study.json"
        if not path.exists():
            state = cls(path, config)
            state.save()
            return state
        try:
            known = json.loads(path.read_text())
            state = cls(path, **known)
        except (ValueError, TypeError) as error:
            raise StudyError(f"{path} is not a study's: {error}; give another --folder") from None
        differing = [
            f"{name} {state.config.get(name)!r}, now {config.get(name)!r}"
            for name in {**config, **state.config}
            if state.config.get(name) != config.get(name)
        ]
        if differing:
            raise StudyError(
                f"{folder} is of another study ({'; '.join(differing)}): give the same options, or"
                " another --folder"
            )
        return state

    def save(self) -> None:
        """Puts it on disk."""
        known = {name: value for name, value in vars(self).items() if name != "path"}
        draft = self.path.with_suffix(".part")
        with draft.open("w") as file:
            file.write(json.dumps(known, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)

    def clock(self, stage: str) -> Clock:
        """Counts a stage's time from now on."""
        return Clock(self, stage)


class Clock:
    """Counts wall time into the state's file: a kill loses seconds of it, no more."""

    def __init__(self, state: State, stage: str) -> None:
        self._state = state
        self._stage = stage
        self._counted = self._saved = time.monotonic()

    def tick(self) -> float:
        """Counts what has passed since the last call; the stage's seconds in all."""
        now = time.monotonic()
        seconds = self._state.seconds
        seconds[self._stage] = seconds.get(self._stage, 0.0) + now - self._counted
        self._counted = now
        if now - self._saved >= _SAVE_EVERY_S:
            self._saved = now
            self._state.save()
        return seconds[self._stage]

    def save(self) -> None:
        """Counts, and puts it on disk."""
        self.tick()
        self._state.save()
