"""Versions are evaluated by the episodes of a run that goes on, and judged by the learner."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict

import pytest
from tests.integration.stack import LEYLINE, Stack, eventually
from tests.integration.test_other_shapes import registered, served
from tests.simic.versions import growing, waiting

from leyline.client import Learner, Registry, Trainer
from leyline.v1.episode_pb2 import EpisodeOrigin
from leyline.v1.learner_pb2 import TrainingPlan
from leyline.v1.registry_pb2 import PolicyEvaluation
from leyline.v1.trainer_pb2 import HostSpec, PolicySpec, RunSpec, TrainingSpec
from simic.database.database import Database
from simic.learning.training import require
from simic.policies import candidates

PAIRS = 4
SPEC = RunSpec(
    host=HostSpec(name="simulator"),
    training=TrainingSpec(horizon=12),
    episodes=200,
    # With this seed a seed at slot-1 is worth something in each pair: the outcome is no chance.
    seed=31,
    policy=PolicySpec(deterministic=True),
)


def propose(stack: Stack, version: str) -> None:
    """Has a version evaluated, as if the training had just made it."""
    database = Database(f"sqlite:///{stack.store}")
    with database.write() as connection:
        training = require(connection, "lesson")["id"]
        candidates.propose(connection, training, version, PAIRS)
    database.close()


async def evaluated(stack: Stack, registry: Registry, version: str) -> PolicyEvaluation:
    """The judgement on a version, once there is one."""
    query = f"SELECT 1 FROM policy_events WHERE kind = 'evaluated' AND policy_version = '{version}'"
    await eventually(lambda: stack.ask(stack.store, query), f"{version} is judged", 150)
    return (await registry.get(version)).evaluations[0]


@pytest.mark.timeout(300)
async def test_a_better_version_becomes_the_active_one_and_a_worse_one_does_not(
    stack: Stack,
) -> None:
    await stack.up()
    async with (
        Registry(stack.addresses["simic"]) as registry,
        Learner(stack.addresses["simic"]) as learner,
        Trainer(stack.addresses["kasmina"]) as trainer,
    ):
        first, better, worse = [
            await registered(registry, learned) for learned in (waiting(1), growing(1), waiting(2))
        ]
        await registry.activate(first)
        await served(stack, first)
        plan = TrainingPlan(
            preset="demo",
            network="mlp",
            activation="if-not-worse",
            evaluation_episodes=PAIRS,
            # What it would learn by itself is not what this is about.
            episodes_per_update=1000,
        )
        await learner.start(plan, "lesson")
        await eventually(lambda: stack.ask(stack.store, "SELECT 1 FROM training_updates"), "begun")
        propose(stack, better)
        await trainer.start(SPEC, "run")
        begun = "SELECT 1 FROM candidates WHERE begun"
        await eventually(lambda: stack.ask(stack.store, begun), "the evaluation begins")
        propose(stack, worse)

        good = await evaluated(stack, registry, better)
        assert (good.baseline_version, good.pairs, good.activated) == (first, PAIRS, True)
        assert good.interval_low > 0
        bad = await evaluated(stack, registry, worse)
        assert (bad.baseline_version, bad.pairs, bad.activated) == (better, PAIRS, False)
        assert bad.interval_high < 0
        assert bad.mean_difference == pytest.approx(-good.mean_difference)
        assert (await registry.get()).manifest.policy_version == better
        await trainer.cancel("run")
        async for _ in trainer.watch("run"):
            pass
    check_pairs(stack, [first, better, worse])
    command = (str(LEYLINE), "policy", "show", worse, "--simic", stack.addresses["simic"], "--json")
    showing = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    shown, _ = await showing.communicate()
    (evaluation,) = json.loads(shown)["evaluations"]
    assert (evaluation["baseline_version"], evaluation["activated"]) == (better, False)


def check_pairs(stack: Stack, versions: list[str]) -> None:
    """Each version has played each pair once, greedily, all of a pair on the same seeds."""
    rows = stack.ask(
        stack.store,
        """SELECT evaluation_pair, policy_version, mode, origin FROM episodes
           WHERE evaluation_pair IS NOT NULL ORDER BY id""",
    )
    origins: dict[object, set[bytes]] = defaultdict(set)
    for pair, _, mode, origin in rows:
        assert isinstance(origin, bytes)
        assert mode == 2
        assert EpisodeOrigin.FromString(origin).evaluation_pair == pair
        origins[pair].add(origin)
    played = sorted((str(version), pair) for pair, version, _, _ in rows)
    assert played == sorted((version, pair) for version in versions for pair in range(PAIRS))
    assert [len(same) for same in origins.values()] == [1] * PAIRS
    assert len(set.union(*origins.values())) == PAIRS
    strangers = stack.ask(
        stack.store,
        """SELECT count(*) FROM episodes e JOIN transitions t ON t.episode_id = e.id
           WHERE e.evaluation_pair IS NOT NULL AND t.policy_version != e.policy_version""",
    )
    assert strangers == [(0,)]
