"""What the simulator can be told: a family of situations, read from a TOML file.

Two families are shipped, "default" and "held-out". Each is frozen: its bytes have the SHA-256 that
stands in `FROZEN`, so that scores on it mean the same for ever. Anything else is a file of one's
own.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

FROZEN: Mapping[str, str] = {
    "default": "a3766301c051837930ff24a51c8335ac1f2568784ce2153720b489612112fc5b",
    "held-out": "df72d245cb1863580da17e2bce6fab5e0347e6e06e75d0d0cff2f12fec1053a0",
}
"""SHA-256 of each shipped family's file."""


class ParametersError(ValueError):
    """A file that is no family of the simulator."""


def _ascending(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError(f"the range [{ends[0]}, {ends[1]}] ends before it begins")
    return ends


Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=1e6)]
NotNegative = Annotated[float, Field(ge=0, le=1e6)]
Shares = Annotated[tuple[Share, Share], AfterValidator(_ascending)]
Times = Annotated[tuple[Positive, Positive], AfterValidator(_ascending)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class EpisodeParameters(_Section):
    """What an episode is.

    Attributes:
        slots: slots of the host, "slot-0" being the one nearest to the input.
        horizon: decision intervals.
        batches: optimiser steps of an interval.
        batch_size: images of an optimiser step.
        validation_images: images of a validation.
        classes: of the task; the loss of a network that knows nothing is their logarithm.
        learning_rate: of the first step; a cosine takes it to 0 at the horizon.
        blend_intervals: intervals over which alpha rises to 1.
    """

    slots: int = Field(ge=1, le=64)
    horizon: int = Field(ge=1, le=10_000)
    batches: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    validation_images: int = Field(ge=1)
    classes: int = Field(ge=2)
    learning_rate: Positive
    blend_intervals: int = Field(ge=1)


class HostParameters(_Section):
    """The bare host and how it learns: a + (b - a) (1 - exp(-t / tau)) after t intervals.

    Attributes:
        parameters: how many it has.
        multiply_adds: of one image's forward pass.
        untrained_accuracy: a.
        converged_accuracy: b.
        time_constant: tau, intervals.
    """

    parameters: int = Field(ge=1)
    multiply_adds: int = Field(ge=1)
    untrained_accuracy: Share
    converged_accuracy: Shares
    time_constant: Times


class SeedParameters(_Section):
    """What seeds are worth.

    Attributes:
        choice: "fixed": the candidate at the slot's depth, modulo their number; "round-robin": each
            germination of the network takes the next; "random": drawn by the blueprint seed.
        candidates: blueprints that seeds can have.
        bad_share: probability that the seed of a (slot, blueprint) pair harms.
        diverging_share: probability that a bad one does not even stay finite in training.
        gain_first_slot, gain_last_slot: what a good seed of quality 1 can add to the accuracy at
            the slot nearest to the input, and at the deepest; linear in depth between them.
        quality: of a good seed; it multiplies the slot's gain.
        harm: what a bad seed takes away at alpha 1, whatever the slot.
        first_slot_size: parameters of a seed at the slot nearest to the input over those of the
            same blueprint at the deepest; geometric in depth between them.
        headroom: gains of all slots together, however many, add less than this.
    """

    choice: Literal["fixed", "round-robin", "random"]
    candidates: tuple[str, ...] = Field(min_length=1)
    bad_share: Share
    diverging_share: Share
    gain_first_slot: Shares
    gain_last_slot: Shares
    quality: Times
    harm: Shares
    first_slot_size: Positive
    headroom: Positive

    @property
    def largest_gain(self) -> float:
        """What a seed of quality 1 can add at most; 1 where it adds nothing anywhere, so that its
        share of the largest is 0."""
        return max(self.gain_first_slot[1], self.gain_last_slot[1]) or 1.0


class GrowthParameters(_Section):
    """How fast things happen to a seed and what happens to the network meanwhile.

    Attributes:
        training_time: intervals of TRAINING after which 1/e of what is to be learnt is left.
        stunted: share of its gain that a good seed has that was blended without any training.
        payoff_time: intervals by which the gain of a good seed lags behind alpha.
        untrained_shock: accuracy lost where a seed without any training is blended in.
        crowding_shock: accuracy lost for each other seed that blends while one is blended in.
        recovery_time: intervals after which 1/e of a shock is left.
    """

    training_time: Positive
    stunted: Share
    payoff_time: Positive
    untrained_shock: Share
    crowding_shock: Share
    recovery_time: Positive


class NoiseParameters(_Section):
    """Standard deviations of what is measured.

    Attributes:
        accuracy: of validation accuracy, fraction.
        loss: of losses, nats.
        ablation: of the ablation's change of loss, nats.
        gradient: of the logarithm of a gradient norm.
        gradmax: of the logarithm of a GradMax norm.
        sparsity: of activation sparsity, fraction.
    """

    accuracy: NotNegative
    loss: NotNegative
    ablation: NotNegative
    gradient: NotNegative
    gradmax: NotNegative
    sparsity: NotNegative


class TelemetryParameters(_Section):
    """What the slots' signs say of need and quality; `kasmina.simulator.signs` has the equations.

    Attributes:
        gradient_scale: gradient norm at a slot without need before the first step.
        gradient_decay: intervals after which 1/e of it is left.
        gradient_need, gradient_harm: what need and a live bad seed add to its logarithm.
        gradmax_scale: GradMax norm for a seed of no effect at a slot without need.
        gradmax_need, gradmax_quality: what need and the seed's worth add to its logarithm.
        sparsity_base: activation sparsity without need.
        sparsity_need, sparsity_harm: what need and a live bad seed add to it.
        output_ratio: norm of a trained seed's output over the host's.
        overfitting: validation loss minus training loss at the horizon, nats.
    """

    gradient_scale: Positive
    gradient_decay: Positive
    gradient_need: NotNegative
    gradient_harm: NotNegative
    gradmax_scale: Positive
    gradmax_need: NotNegative
    gradmax_quality: NotNegative
    sparsity_base: Share
    sparsity_need: NotNegative
    sparsity_harm: NotNegative
    output_ratio: NotNegative
    overfitting: NotNegative


class BlueprintCost(_Section):
    """Cost of a seed at the deepest slot, over the bare host's."""

    parameters: NotNegative
    multiply_adds: NotNegative


class Parameters(_Section):
    """A family of situations: everything but the random seeds."""

    episode: EpisodeParameters
    host: HostParameters
    seeds: SeedParameters
    growth: GrowthParameters
    noise: NoiseParameters
    telemetry: TelemetryParameters
    blueprints: dict[str, BlueprintCost] = Field(min_length=1)
    """What a seed of each blueprint costs."""

    @model_validator(mode="after")
    def _every_candidate_has_its_cost(self) -> Self:
        unknown = set(self.seeds.candidates) - set(self.blueprints)
        if unknown:
            raise ValueError(
                f"no cost is given for the candidates {', '.join(sorted(unknown))}; "
                f"there are {', '.join(self.blueprints)}"
            )
        return self

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Parameters:
        """The parameters that `to_dict` gave. Raises `ParametersError`."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ParametersError(_explain(error)) from error

    def to_dict(self) -> dict[str, Any]:
        """The parameters as JSON can hold them."""
        return self.model_dump(mode="json")

    def with_episode(self, **changes: int) -> Parameters:
        """The same family with another number of `slots`, another `horizon` and the like.

        Raises `ParametersError`.
        """
        values = self.to_dict()
        return Parameters.from_dict({**values, "episode": {**values["episode"], **changes}})


def load_family(name: str) -> Parameters:
    """A shipped family.

    Raises `ParametersError` where there is none of that name, or where its file is not the one
    that scores stand for.
    """
    if name not in FROZEN:
        raise ParametersError(
            f"there is no shipped family {name!r}; there are {', '.join(FROZEN)}. "
            "A family of your own is a TOML file: see docs/simulator.md"
        )
    content = family_bytes(name)
    found = hashlib.sha256(content).hexdigest()
    if found != FROZEN[name]:
        raise ParametersError(
            f"the shipped family {name!r} was changed: its file has SHA-256 {found}, not "
            f"{FROZEN[name]}. Install it anew, and keep changes in a file of your own"
        )
    return _parse(content, f"the family {name!r}")


def load_parameters(path: Path) -> Parameters:
    """A family of one's own. Raises `ParametersError` where the file cannot be read or is none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ParametersError(f"cannot read the family {path}: {error}") from error
    return _parse(content, str(path))


def family_bytes(name: str) -> bytes:
    """The file of a shipped family, a good beginning for one's own."""
    return (resources.files("kasmina.simulator") / "families" / f"{name}.toml").read_bytes()


def _parse(content: bytes, what: str) -> Parameters:
    try:
        return Parameters.from_dict(tomllib.loads(content.decode()))
    except (ValueError, RecursionError) as error:
        raise ParametersError(f"{what} is not a family: {error}") from error


def _explain(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(str(part) for part in problem['loc']) or 'file'}: {problem['msg']}"
        for problem in error.errors()
    )
