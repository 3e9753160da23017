"""Settings of the demonstration: small enough for a few minutes on two cores, and named."""

from __future__ import annotations

from dataclasses import dataclass

from leyline.v1.learner_pb2 import TrainingPlan
from leyline.v1.trainer_pb2 import (
    PRECISION_FP32,
    DatasetSpec,
    GrowthSpec,
    RunSpec,
    TrainingSpec,
)


@dataclass(frozen=True)
class Data:
    """A data set, and how much of it is an interval."""

    dataset: DatasetSpec
    training: TrainingSpec


# Short intervals, 1,152 images each: a policy that has not learned yet needs many decisions before
# it has carried a seed through all its stages once. The precision is not left to be measured: what
# the demonstration shows should depend on its seed.
_CIFAR100 = Data(
    DatasetSpec(name="cifar100", training_images=20_000, validation_images=1_000),
    TrainingSpec(batch_size=128, interval_batches=9, horizon=24, precision=PRECISION_FP32),
)
# Tiny images, so more of them an interval, or the run would be over before anything is learned.
_DIGITS = Data(
    DatasetSpec(name="digits", validation_images=360),
    TrainingSpec(batch_size=32, interval_batches=30, horizon=24, precision=PRECISION_FP32),
)


@dataclass(frozen=True)
class Preset:
    """What one demonstration runs and learns."""

    name: str = "demo"
    data: tuple[Data, ...] = (_CIFAR100, _DIGITS)
    """The first that is there is taken."""
    episodes: int = 10
    learner: str = "demo"
    """The learner's own preset."""
    episodes_per_update: int = 2
    seed: int = 0
    """With this one the policy, while it knows nothing yet, happens to grow more than with most."""

    def run_spec(self, data: Data) -> RunSpec:
        """What Kasmina is told."""
        return RunSpec(
            title=f"leyline demo, preset {self.name}",
            dataset=data.dataset,
            training=data.training,
            growth=GrowthSpec(blend_intervals=2),
            episodes=self.episodes,
            seed=self.seed,
        )

    def plan(self, run_id: str) -> TrainingPlan:
        """What Simic is told; the training ends with the run's last whole batch of episodes."""
        return TrainingPlan(
            preset=self.learner,
            episodes_per_update=self.episodes_per_update,
            max_updates=self.episodes // self.episodes_per_update,
            seed=self.seed,
            run_id=run_id,
        )


DEMO = Preset()
