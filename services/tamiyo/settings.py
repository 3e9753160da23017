"""What can be set about Tamiyo, by flags or by ``LEYLINE_TAMIYO_…``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from chassis.address import Address
from chassis.settings import ListenAddress, ServerSettings, settings_config
from tamiyo.policies import BUILT_IN


class PolicySettings(ServerSettings):
    """Settings of a server of any policy.

    Attributes:
        listen: where it listens.
        queue_size: queries that may wait while a batch is computed; more are refused.
    """

    model_config = settings_config("LEYLINE_TAMIYO_")

    listen: ListenAddress = Address.parse("127.0.0.1:50052")
    queue_size: int = Field(default=4096, ge=1)


class TamiyoSettings(PolicySettings):
    """Settings of the policy service.

    Attributes:
        policy: which policy it serves.
        plan: file with the plan of the policy ``schedule``, as under ``policy.plan`` of a run.
        spec: observation spec that queries to a built-in policy must carry; a learned one brings
            its own.
        registry: where a learned policy's versions come from.
        state_dir: where they are kept for the next start.
        cached_versions: versions of a learned policy that are held ready, and kept on disk.
        shadow: what is asked the same and only logged: ``wait``, ``random``, ``heuristic``, or a
            version of the registry.
    """

    policy: Literal["wait", "random", "heuristic", "schedule", "learned"] = "learned"
    plan: Path | None = None
    spec: Literal["seed", "extended"] = "seed"
    registry: ListenAddress = Address.parse("127.0.0.1:50053")
    state_dir: Path = Path(".leyline/tamiyo")
    cached_versions: int = Field(default=16, ge=1, le=1024)
    shadow: str | None = Field(default=None, min_length=1, max_length=128)

    @model_validator(mode="after")
    def _schedule_has_a_plan(self) -> Self:
        if (self.policy == "schedule") != (self.plan is not None):
            raise ValueError(
                "a plan belongs to the policy schedule, and that policy needs one: give both "
                "--policy schedule and --plan FILE, or neither"
            )
        return self

    @model_validator(mode="after")
    def _shadow_is_to_be_had(self) -> Self:
        if self.shadow in ("schedule", "learned"):
            raise ValueError(
                f"the shadow cannot be {self.shadow}: it is one of {', '.join(BUILT_IN)}, or a "
                "version of the registry"
            )
        if self.shadow is not None and self.shadow not in BUILT_IN and self.policy != "learned":
            raise ValueError(
                f"the shadow {self.shadow} is none of {', '.join(BUILT_IN)}: it would be a version "
                "of the registry, which only --policy learned follows"
            )
        return self
