"""What is trained, on what, and how much of it: all numbers of the study, in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from leyline.identity import derived_seed
from leyline.v1.episode_pb2 import DoubleRange, SituationRange
from leyline.v1.learner_pb2 import TrainingPlan
from leyline.v1.trainer_pb2 import (
    PRECISION_FP32,
    DatasetSpec,
    GrowthSpec,
    HostSpec,
    Plan,
    PolicySpec,
    RunSpec,
    TrainingSpec,
)

SLOTS = ("slot-0", "slot-1", "slot-2")
"""Of the host, from the input on."""
CHANNELS = (16, 32, 64)
"""Of the host's stages, where a situation has no bottleneck."""
OBSERVATION_SPEC = "extended"
WORKERS = 2
"""Episodes at a time, each with one thread."""
WAITING = PolicySpec(plan=Plan())


@dataclass(frozen=True)
class Share:
    """Episodes of a run: which ones, of which seed."""

    seed: int
    first: int
    episodes: int


@dataclass(frozen=True)
class Preset:
    """Sizes of a study.

    Attributes:
        mixed: situations that are trained on, searched on and compared on.
        held_out: situations of a second comparison, which nothing has learned from.
        rent: points of accuracy for spending as much again as the bare host spends.
        chunk: episodes of a run. A worker is started for each run, and between two of them nothing
            is lost by an interruption but the interval that was trained.
        episode_s: what an episode was measured to take on one core, for the first estimates.
    """

    name: str
    dataset: DatasetSpec
    training: TrainingSpec
    growth: GrowthSpec
    mixed: SituationRange
    held_out: SituationRange
    rent: float
    learner: str
    chunk: int
    episode_s: float

    @property
    def horizon(self) -> int:
        return self.training.horizon

    def run_spec(
        self,
        policy: PolicySpec,
        share: Share,
        *,
        held_out: bool = False,
        twin: str = "",
    ) -> RunSpec:
        """Some episodes under a policy; whatever decides, episode i of a seed is the same."""
        return RunSpec(
            title=f"study-growing, {self.name}",
            host=HostSpec(channels=CHANNELS),
            dataset=self.dataset,
            training=self.training,
            growth=self.growth,
            policy=policy,
            situations=self.held_out if held_out else self.mixed,
            observation_spec=OBSERVATION_SPEC,
            seed=share.seed,
            first_episode=share.first,
            episodes=share.episodes,
            twin_run=twin,
        )

    def plan(self, seed: int, *, minus_twin: bool, updates: int) -> TrainingPlan:
        """What is learned, and how."""
        return TrainingPlan(
            preset=self.learner,
            network="slot-shared",
            reward="final-accuracy-rent",
            rent=self.rent,
            minus_twin=minus_twin,
            observation_spec=OBSERVATION_SPEC,
            max_updates=updates,
            seed=seed,
        )

    def contents(self, seed: int) -> str:
        """All that makes results comparable, as text."""
        spec = self.run_spec(WAITING, Share(seed, 0, self.chunk))
        return f"{spec}{self.held_out}{self.plan(seed, minus_twin=True, updates=0)}"


def root_seed(stage: str, seed: int) -> int:
    """The seed of a stage's runs: each stage plays episodes that no other one does."""
    return derived_seed(f"study-growing-{stage}", seed)


# A fifth of the images of an episode of docs/findings/depth-and-time.md, in batches half as large:
# 640 steps of the optimiser, after which a seed at the last slot is worth points still
# (docs/findings/growing.md). As many validation images as cost a fifth of the time. Two intervals
# of blending, because 16 are few; three seeds, one after the other, have just room in them.
CIFAR100 = Preset(
    name="cifar100",
    dataset=DatasetSpec(name="cifar100", training_images=10_000, validation_images=2_000),
    training=TrainingSpec(batch_size=64, interval_batches=40, horizon=16, precision=PRECISION_FP32),
    growth=GrowthSpec(blend_intervals=2),
    mixed=SituationRange(name="mixed"),
    held_out=SituationRange(name="held-out"),
    rent=1.0,
    learner="default",
    chunk=5,
    episode_s=28.0,
)


def _small(
    name: str, factor: DoubleRange, learning_rate: DoubleRange, *, held_out: bool = False
) -> SituationRange:
    return SituationRange(
        name=name,
        held_out=held_out,
        bottleneck_probability=0.5,
        bottleneck_factor=factor,
        training_images=(200, 600, 1000),
        label_noise=(0.0, 0.4),
        learning_rate=learning_rate,
        dud_probability=0.3,
    )


# For the test of the study, and for trying it: a fraction of a second an episode, no files needed.
DIGITS = Preset(
    name="digits",
    dataset=DatasetSpec(name="digits", training_images=1_000, validation_images=200),
    training=TrainingSpec(batch_size=50, interval_batches=2, horizon=6, precision=PRECISION_FP32),
    growth=GrowthSpec(blend_intervals=1),
    mixed=_small("small", DoubleRange(low=0.125, high=0.5), DoubleRange(low=0.05, high=0.2)),
    held_out=_small(
        "small-other",
        DoubleRange(low=0.06, high=0.12),
        DoubleRange(low=0.03, high=0.045),
        held_out=True,
    ),
    rent=1.0,
    learner="demo",
    chunk=2,
    episode_s=0.5,
)

PRESETS: Mapping[str, Preset] = {preset.name: preset for preset in (CIFAR100, DIGITS)}
