"""What can be set about Tamiyo, by flags or by ``LEYLINE_TAMIYO_…``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from chassis.address import Address
from chassis.settings import ListenAddress, ServerSettings, settings_config


class TamiyoSettings(ServerSettings):
    """Settings of the policy service.

    Attributes:
        listen: where it listens.
        policy: which policy it serves.
        spec: observation spec that queries to a built-in policy must carry; a learned one brings
            its own.
        registry: where a learned policy's versions come from.
        state_dir: where they are kept for the next start.
        queue_size: queries that may wait while a batch is computed; more are refused.
        cached_versions: versions of a learned policy that are held ready, and kept on disk.
    """

    model_config = settings_config("LEYLINE_TAMIYO_")

    listen: ListenAddress = Address.parse("127.0.0.1:50052")
    policy: Literal["wait", "random", "heuristic", "learned"] = "learned"
    spec: Literal["seed", "extended"] = "seed"
    registry: ListenAddress = Address.parse("127.0.0.1:50053")
    state_dir: Path = Path(".leyline/tamiyo")
    queue_size: int = Field(default=4096, ge=1)
    cached_versions: int = Field(default=16, ge=1, le=1024)
