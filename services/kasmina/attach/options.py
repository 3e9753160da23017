"""What attaching may be told beyond what it has to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from kasmina.attach.optimizer import MakeOptimizer
from kasmina.network.slot import AlphaSchedule
from kasmina.training.configuration import BlueprintChoice


@dataclass(frozen=True)
class AttachOptions:
    """Settings with defaults that fit most loops."""

    seed: int = 0
    """Of everything that is random in growing: blueprints, weights of seeds, the policy's draws."""
    greedy: bool = False
    """Whether the policy is to take its most probable action, in place of drawing one."""
    temperature: float | None = None
    """Divides the policy's logits before an action is drawn, in [0.01, 100]. None: 1."""
    observation_spec: str = "seed"
    """Of snapshots: "seed" or "extended". The policy must want the same."""
    blueprint_choice: BlueprintChoice = "fixed"
    """See `kasmina.training.configuration.TrainerConfig`, as for the next four."""
    blueprints: Mapping[str, str] = field(default_factory=dict)
    candidates: tuple[str, ...] = ()
    blend_intervals: int = 3
    alpha_schedule: AlphaSchedule = "linear"
    seed_optimizer: MakeOptimizer | None = None
    """Builds the optimiser of a seed's parameters, which keeps its own learning rate. None: one
    like the host's, which follows the learning rate of the host's first parameter group."""
    clip_norm: float | None = None
    """Largest gradient norm of a seed. None: any. What the loop clips is the host's alone."""
    telemetry_every: int = 8
    """The slots are measured on the last batch of an interval and every so many before it, as far
    as intervals have as many steps as the one before."""
    ablation: tuple[Tensor, Any] | None = None
    """Images and labels, as the model and the loss take them, on which each live seed is left out
    after an interval. None: it is not measured what seeds are worth."""
    decision_timeout_s: float = 5.0
    """How long a decision may take before the loop goes on with WAIT."""
    policy_grace_s: float = 5.0
    """How long the beginning of an episode waits for a policy that is away."""
    experience_timeout_s: float = 2.0
    """How long the beginning of an episode waits for the experience service."""
    end_patience_s: float = 10.0
    """How long the end waits for the experience service to take what is in the outbox."""
