"""Kasmina's settings: the environment's `LEYLINE_KASMINA_...`, and the flags that override it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from chassis.address import Address
from chassis.settings import ListenAddress, ServerSettings, settings_config

DEFAULT_POLICY = "default"
"""The policy endpoint of a run that names none."""


class KasminaSettings(ServerSettings):
    """Everything that the service and its worker are told."""

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
    """How long the start of an episode waits for the experience service to pin a policy version."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the worker computes. Untested on cuda."""
    threads: int = Field(default=1, ge=1)
    """Threads that the worker computes with. Results are repeatable bit for bit with the same
    number only.
    """
    min_free_bytes: int = Field(default=64 << 20, ge=0)
    """Room that must be left on the state folder's disk; with less, runs pause before their next
    step.
    """
    queue_limit: int = Field(default=1000, ge=1)
    """Runs that may wait for the worker."""
    crash_limit: int = Field(default=3, ge=1)
    """Crashes of the worker in a row, without a step completed in between, after which a run has
    failed.
    """
    poll_interval_s: float = Field(default=0.1, gt=0, le=10)
    """How often watchers and the outbox look into the journal."""
