"""The folder in which Kasmina keeps everything that must outlive it."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_LOCK_POLL_S = 0.05


class StateDirectoryBusy(Exception):
    """Another process holds the lock."""

    def __init__(self, lock: Path, holder: str) -> None:
        super().__init__(
            f"{lock} is in use by another process ({holder or 'unknown'}); stop it, or set"
            " LEYLINE_KASMINA_STATE_DIR to another folder"
        )
        self.lock = lock
        self.holder = holder


@dataclass(frozen=True)
class StateDirectory:
    """Where things are in the folder.

    Attributes:
        root: the folder itself; absolute.
    """

    root: Path

    @classmethod
    def open(cls, root: Path) -> StateDirectory:
        """The folder, made where it is not there. Raises OSError where it cannot be."""
        root = root.absolute()
        root.mkdir(parents=True, exist_ok=True)
        return cls(root)

    @property
    def journal(self) -> Path:
        """The SQLite file that is the truth about runs."""
        return self.root / "journal.sqlite3"

    @property
    def reserve(self) -> Path:
        """The file whose room is given up when the disk is full."""
        return self.root / "reserve"

    @property
    def faults(self) -> Path:
        """Marks of faults injected by tests; see `kasmina.runs.fault`."""
        return self.root / "faults"

    @property
    def all_checkpoints(self) -> Path:
        """Folder with a folder for each run that has checkpoints."""
        return self.root / "checkpoints"

    def checkpoints(self, run_id: str) -> Path:
        """Folder of a run's checkpoints."""
        return self.all_checkpoints / run_id

    def checkpoint(self, run_id: str, episode_index: int, step: int) -> Path:
        """The checkpoint from which the episode goes on with `step`."""
        return self.checkpoints(run_id) / f"{episode_index}-{step}.safetensors"

    @property
    def networks(self) -> Path:
        """Folder with a folder for each run that has left networks."""
        return self.root / "networks"

    def network(self, run_id: str, episode_index: int) -> Path:
        """The episode's final network."""
        return self.networks / run_id / f"{episode_index}.safetensors"

    @property
    def locks(self) -> Path:
        """Folder of the locks of runs that have not ended."""
        return self.root / "locks"

    def lock(self, run_id: str) -> Path:
        """The file that a run's worker has locked."""
        return self.locks / run_id

    def forget_work(self, run_id: str, *, keep_checkpoints: bool) -> None:
        """Removes what is of no use once the run has ended."""
        if not keep_checkpoints:
            shutil.rmtree(self.checkpoints(run_id), ignore_errors=True)
        self.lock(run_id).unlink(missing_ok=True)

    def forget_run(self, run_id: str) -> None:
        """Removes all that the run has left."""
        self.forget_work(run_id, keep_checkpoints=False)
        shutil.rmtree(self.networks / run_id, ignore_errors=True)

    @contextmanager
    def service_lock(self) -> Iterator[None]:
        """Keeps other services out. Raises `StateDirectoryBusy` at once where there is one."""
        with _locked(self.root / "service.lock", patience_s=0.0):
            yield

    @contextmanager
    def run_lock(self, run_id: str, patience_s: float) -> Iterator[None]:
        """Keeps other workers off a run, after waiting for one that is about to die with its
        service.
        """
        self.locks.mkdir(exist_ok=True)
        with _locked(self.lock(run_id), patience_s):
            yield


@contextmanager
def _locked(path: Path, patience_s: float) -> Iterator[None]:
    # The kernel drops the lock when its holder dies, however it dies. Children do not inherit the
    # handle.
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    holder = os.pread(handle, 64, 0).decode(errors="replace").strip()
                    raise StateDirectoryBusy(path, holder) from None
            time.sleep(_LOCK_POLL_S)
        _sign(handle)
        yield
    finally:
        os.close(handle)


def _sign(handle: int) -> None:
    """Leaves the holder's process id for people."""
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"process {os.getpid()}\n".encode(), 0)
