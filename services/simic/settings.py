"""Simic's settings: flags, or variables that begin with LEYLINE_SIMIC_."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from chassis.address import Address
from chassis.settings import ListenAddress, ServerSettings, settings_config
from simic.database.database import sqlite_url
from simic.learning.recipes import RECIPES


def _preset(name: str | None) -> str | None:
    if name in (None, "none"):
        return None
    if name not in RECIPES:
        raise ValueError(f"there is no such preset; known: none, {', '.join(RECIPES)}")
    return name


Preset = Annotated[str | None, AfterValidator(_preset)]


class SimicSettings(ServerSettings):
    """What Simic can be told beside what every server can.

    Attributes:
        state_dir: directory that belongs to this service alone.
        database_url: where experience, versions and trainings are kept; unset: a SQLite file in
            the state directory.
        curves_dir: where each training's curves are written for TensorBoard; unset: ``curves`` in
            the state directory.
        database_wait_s: seconds that a database which is away at the start has to come back.
        train: preset of a training to start with the service, where none is running; "none" or
            unset: trainings are started by StartTraining alone.
        abandon_after_s: seconds after which an episode of which nothing was heard counts as
            abandoned, until its trainer says more; 0: never.
        keep_days: days after which the steps of an episode that is over are deleted, unless
            somebody needs them; 0: never.
        keep_bytes: bytes of steps, about, beyond which the oldest are deleted likewise; 0: none.
        poll_s: seconds between two looks of a watching stream at what the learner has committed.
        learner_restarts: how often a learner that crashes is started again without an update in
            between, before its training fails.
        learner_restart_s: seconds before the first restart; each further one waits twice as long.
    """

    model_config = settings_config("LEYLINE_SIMIC_")

    listen: ListenAddress = Address.parse("127.0.0.1:50053")
    state_dir: Path = Path(".leyline/simic")
    database_url: str | None = None
    curves_dir: Path | None = None
    database_wait_s: float = Field(default=30.0, ge=0, le=3600)
    train: Preset = None
    abandon_after_s: float = Field(default=86_400.0, ge=0, le=10 * 365 * 86_400)
    keep_days: float = Field(default=0.0, ge=0, le=100_000)
    keep_bytes: int = Field(default=0, ge=0)
    poll_s: float = Field(default=0.15, ge=0.01, le=60)
    learner_restarts: int = Field(default=5, ge=0, le=1000)
    learner_restart_s: float = Field(default=0.5, gt=0, le=60)

    @property
    def url(self) -> str:
        """The database's URL."""
        return self.database_url or sqlite_url(self.state_dir)

    @property
    def curves(self) -> Path:
        """Folder for the curves of trainings."""
        return self.curves_dir or self.state_dir / "curves"
