"""Laws of growing, over histories that nobody thought of.

Whatever is done in whatever order: the lifecycle stays legal, what one slot goes through leaves the
optimiser moments of all others alone, and an episode that is killed and resumed is bit for bit the
unbroken one. On hosts of every kind, in a short form; the full one takes about ten minutes:

    LEYLINE_GROWTH_STEPS=10000 python -m pytest tests/kasmina/training/test_growth_laws.py

plays so many steps (actions, intervals and resumptions), and kills an episode at 50 points.
"""

from __future__ import annotations

import os
import random
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.kasmina.conftest import striped_images
from tests.kasmina.network.tiny_hosts import HOSTS
from torch import Tensor

from kasmina.data.images import Dataset
from kasmina.network.blueprint import blueprint_names
from kasmina.network.slot import Action, Stage
from kasmina.training.configuration import EpisodeSeeds, TrainerConfig
from kasmina.training.trainer import GrowthTrainer

STEPS = int(os.environ.get("LEYLINE_GROWTH_STEPS", "400"))
STEPS_OF_A_HISTORY = 40
KILL_POINTS = 50 if "LEYLINE_GROWTH_STEPS" in os.environ else 8

CONFIG = TrainerConfig(
    horizon=1000,
    batch_size=4,
    interval_batches=2,
    clip_norm=1.0,
    blend_intervals=2,
    blueprint_choice="random",
    candidates=blueprint_names(),
    duds=("norm",),
    threads=1,
    telemetry_every=2,
)
IMAGES = Dataset(
    name="stripes",
    train=striped_images(16, seed=1, side=8),
    validation=striped_images(12, seed=2, side=8),
    classes=4,
    augmented=True,
)
AFTER = {
    Stage.GERMINATED: Stage.TRAINING,
    Stage.TRAINING: Stage.BLENDING,
    Stage.BLENDING: Stage.FOSSILIZED,
}
SLOTS = st.sampled_from(["slot-0", "slot-1", "slot-2"])
FORWARD = st.sampled_from([Action.GERMINATE, Action.ADVANCE, Action.ADVANCE, Action.ADVANCE])
LEARNING = (Stage.TRAINING, Stage.BLENDING, Stage.FOSSILIZED)


def everything(trainer: GrowthTrainer) -> dict[str, Tensor]:
    state = {f"network/{name}": t for name, t in trainer.network.state_dict().items()}
    state |= {f"moments/{name}": t for name, t in trainer.optimizer.state().items()}
    state |= {f"random/{i}": t for i, t in enumerate(trainer.random_states())}
    return {name: tensor.clone() for name, tensor in state.items()}


def differences(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]


def configured(host: str, seed: int) -> TrainerConfig:
    return replace(CONFIG, host=host, seeds=EpisodeSeeds.of(seed), **HOSTS[host])


class Growth(RuleBasedStateMachine):
    """An episode that is played by chance, beside a model of what its slots may be."""

    @initialize(host=st.sampled_from(sorted(HOSTS)), seed=st.integers(0, 9))
    def begin(self, host: str, seed: int) -> None:
        self.trainer = GrowthTrainer(configured(host, seed), IMAGES)
        self.stages = dict.fromkeys(self.trainer.slot_ids, Stage.DORMANT)
        self.blended = dict.fromkeys(self.trainer.slot_ids, 0)

    @rule(action=FORWARD, slot_id=SLOTS)
    def grow(self, action: Action, slot_id: str) -> None:
        self.act(action, slot_id)

    @rule(slot_id=SLOTS)
    def cull(self, slot_id: str) -> None:
        self.act(Action.CULL, slot_id)

    @rule()
    def train(self) -> None:
        self.trainer.train_interval()
        self.count_interval()

    @rule()
    def kill_and_resume(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "episode.safetensors"
            self.trainer.save(path)
            resumed = GrowthTrainer.load(path, IMAGES)
        assert resumed.snapshot() == self.trainer.snapshot()
        assert differences(everything(resumed), everything(self.trainer)) == []
        facts = [trainer.train_interval() for trainer in (resumed, self.trainer)]
        assert replace(facts[0], seconds=0.0) == replace(facts[1], seconds=0.0)
        assert resumed.snapshot() == self.trainer.snapshot()
        assert differences(everything(resumed), everything(self.trainer)) == []
        self.trainer = resumed
        self.count_interval()

    @invariant()
    def the_lifecycle_is_legal(self) -> None:
        readings = {slot.slot_id: slot for slot in self.trainer.snapshot().slots}
        assert {name: slot.stage for name, slot in readings.items()} == self.stages
        occupied = {name for name, stage in self.stages.items() if stage is not Stage.DORMANT}
        assert set(self.trainer.network.seeds) == occupied
        for name, slot in readings.items():
            assert slot.has_seed == (slot.blueprint is not None) == (name in occupied)
            blended = self.blended[name] / CONFIG.blend_intervals
            alpha = {Stage.BLENDING: min(blended, 1.0), Stage.FOSSILIZED: 1.0}
            assert slot.alpha == alpha.get(slot.stage, 0.0)
        owners = {name.split("/")[0] for name in self.trainer.optimizer.state()}
        learning = {name for name, stage in self.stages.items() if stage in LEARNING}
        assert owners <= {"host", *learning}
        counted = self.trainer.network.parameter_count()
        assert self.trainer.snapshot().size_ratio == counted / sum(
            parameter.numel() for parameter in self.trainer.network.host.parameters()
        )

    def act(self, action: Action, slot_id: str) -> None:
        before = everything(self.trainer)
        stage = self.stages[slot_id]
        outcome = self.trainer.apply(action, slot_id)
        match action:
            case Action.GERMINATE:
                possible, after = stage is Stage.DORMANT, Stage.GERMINATED
            case Action.CULL:
                possible, after = stage not in (Stage.DORMANT, Stage.FOSSILIZED), Stage.DORMANT
            case _:
                done = self.blended[slot_id] >= CONFIG.blend_intervals
                possible = stage in AFTER and (stage is not Stage.BLENDING or done)
                after = AFTER.get(stage, stage)
        assert outcome.executed == possible
        if possible:
            self.stages[slot_id] = after
            self.blended[slot_id] = 0
        mine = (f"network/seeds.{slot_id}.", f"moments/{slot_id}/")
        others = {name: tensor for name, tensor in before.items() if not name.startswith(mine)}
        now = everything(self.trainer)
        assert differences(others, {name: now[name] for name in others}) == []
        if action is Action.ADVANCE or not possible:
            assert differences(before, now) == []

    def count_interval(self) -> None:
        for slot_id, stage in self.stages.items():
            self.blended[slot_id] += stage is Stage.BLENDING


TestGrowth = Growth.TestCase
TestGrowth.settings = settings(
    max_examples=max(STEPS // STEPS_OF_A_HISTORY, 1),
    stateful_step_count=STEPS_OF_A_HISTORY,
    suppress_health_check=list(HealthCheck),
)


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("host", sorted(HOSTS))
def test_killed_at_any_batch_an_episode_goes_on_as_the_unbroken_one(
    host: str, tmp_path: Path
) -> None:
    plan = {
        0: [(Action.GERMINATE, "slot-2"), (Action.ADVANCE, "slot-2")],
        1: [(Action.ADVANCE, "slot-2"), (Action.GERMINATE, "slot-0"), (Action.ADVANCE, "slot-0")],
        2: [(Action.CULL, "slot-0"), (Action.GERMINATE, "slot-1"), (Action.ADVANCE, "slot-1")],
        3: [(Action.ADVANCE, "slot-2"), (Action.ADVANCE, "slot-1")],
    }
    config = replace(configured(host, seed=3), horizon=5, interval_batches=4)

    def path(interval: int) -> Path:
        return tmp_path / f"{interval}.safetensors"

    def act(trainer: GrowthTrainer) -> None:
        for action, slot_id in plan.get(trainer.interval, []):
            assert trainer.apply(action, slot_id).executed

    unbroken = GrowthTrainer(config, IMAGES)
    ends = []
    while not unbroken.finished:
        unbroken.save(path(unbroken.interval))
        act(unbroken)
        unbroken.train_interval()
        ends.append((unbroken.snapshot(), everything(unbroken)))

    def kill(done: int, of: int) -> None:
        if done == batch:
            raise Killed

    chance = random.Random(0)
    for _ in range(-(-KILL_POINTS // len(HOSTS))):
        interval, batch = chance.randrange(config.horizon), chance.randint(1, 4)
        broken = GrowthTrainer.load(path(interval), IMAGES)
        act(broken)
        with pytest.raises(Killed):
            broken.train_interval(kill)
        resumed = GrowthTrainer.load(path(interval), IMAGES)
        while not resumed.finished:
            act(resumed)
            resumed.train_interval()
            snapshot, state = ends[resumed.interval - 1]
            assert resumed.snapshot() == snapshot
            assert differences(everything(resumed), state) == []
