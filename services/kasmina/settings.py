"""Kasmina's settings: the environment's `LEYLINE_KASMINA_...`, and the flags that override it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field

from chassis.address import Address
from chassis.settings import ListenAddress, ServerSettings, settings_config

DEFAULT_POLICY = "default"
"""The policy endpoint of a run that names none."""


class KasminaSettings(ServerSettings):
    """Everything that the service and its workers are told."""

    model_config = settings_config("LEYLINE_KASMINA_")

    listen: ListenAddress = Address.parse("127.0.0.1:50051")
    state_dir: Path = Path(".leyline/kasmina")
    """Folder of the journal, checkpoints and grown networks. One service at a time."""
    policies: dict[str, str] = Field(default={DEFAULT_POLICY: "127.0.0.1:50052"}, min_length=1)
    """Policy endpoints by the name that runs know them by."""
    experience: str = "127.0.0.1:50053"
    """Where transitions are sent to."""
    data: Path | None = None
    """Folder that holds data sets, each in a folder of its name. None: `LEYLINE_DATA`, else the
    known places.
    """
    cache: Path | None = None
    """Folder for decoded data sets. None: the user's cache folder."""
    decision_timeout_s: float = Field(default=5.0, gt=0, le=600)
    """How long a decision may take, unless the run says otherwise, before the trainer goes on with
    WAIT.
    """
    policy_grace_s: float = Field(default=5.0, ge=0, le=600)
    """How long the start of an episode waits for a policy that is away."""
    experience_timeout_s: float = Field(default=2.0, gt=0, le=600)
    """How long the start of an episode waits for the experience service to pin a policy version;
    with `wait_for_experience`, how long it waits for one answer, and then half a minute at least.
    """
    wait_for_experience: bool = False
    """Whether a step waits until the experience service has stored the one before it, and for a
    policy that is away: for a state folder that does not outlive the service. Whoever plays an
    episode again from its start then plays the same one.
    """
    device: Literal["cpu", "cuda"] = "cpu"
    """Where workers compute; with several GPUs, each worker on the next. Untested on cuda."""
    parallelism: int = Field(default=1, ge=1, le=256)
    """Runs that are trained at once, each by a worker process of its own."""
    threads: int | None = Field(default=None, ge=1)
    """Threads that a worker computes with. Results are repeatable bit for bit with the same number
    only, so a run keeps the number that it started with. None: the cores are shared out.
    """
    drive_patience_s: float = Field(default=600.0, gt=0)
    """How long a driven run waits for a caller who is away before it is given up."""
    keep_runs: int = Field(default=1000, ge=0)
    """Ended runs that are kept, the latest; older ones are forgotten with all that they left."""
    keep_days: float | None = Field(default=None, ge=0)
    """Days after its end for which a run is kept. None: as long as `keep_runs` keeps it."""
    min_free_bytes: int = Field(default=64 << 20, ge=0)
    """Room that must be left on the state folder's disk; with less, runs pause before their next
    step.
    """
    queue_limit: int = Field(default=1000, ge=1)
    """Runs that may wait for a worker."""
    crash_limit: int = Field(default=3, ge=1)
    """Crashes of a run's workers in a row, without a step completed in between, after which it has
    failed.
    """
    poll_interval_s: float = Field(default=0.1, gt=0, le=10)
    """How often watchers and the outbox look into the journal."""

    @property
    def worker_threads(self) -> int:
        """Threads of a worker: as set, or its share of the cores that this process may use."""
        return self.threads or max(len(os.sched_getaffinity(0)) // self.parallelism, 1)
