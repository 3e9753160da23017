"""Policies out of artifacts: for one number of slots, for any, and with an answer that is none."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper
from tests.tamiyo.networks import Network, Version, sums, sums_graph
from tests.tamiyo.queries import query

from chassis.errors import ErrorCode, LeylineError
from leyline.observation import SEED_SPEC, slot_order, vectorize
from leyline.v1.decision_pb2 import (
    ACTION_TYPE_WAIT,
    SELECTION_MODE_GREEDY,
    SELECTION_MODE_SAMPLED,
    Decision,
)
from leyline.v1.registry_pb2 import GoldenOutput
from leyline.v1.snapshot_pb2 import MultiSlotSnapshot
from tamiyo.artifact import Artifact
from tamiyo.batch import DecisionBatcher
from tamiyo.policies.learned import LearnedPolicy
from tamiyo.sampling import ACTION_TYPES

Float32 = NDArray[np.float32]


def learned(version: Version) -> LearnedPolicy:
    return LearnedPolicy(Artifact(version.manifest, version.data))


def test_the_greedy_choice_is_the_network_s_largest_logit_at_the_slot_of_that_depth() -> None:
    network = Network(seed=3)
    policy = learned(network.version())
    queries = [query(step, mode=SELECTION_MODE_GREEDY) for step in range(60)]
    seen = set()
    for asked, choice in zip(queries, policy.decide(queries), strict=True):
        types, slots, value = network.run(vectorize(asked.snapshot, SEED_SPEC)[np.newaxis])
        index = int(types[0].argmax())
        assert choice.action_type == ACTION_TYPES[index]
        assert choice.value is not None
        assert abs(choice.value - value[0]) < 1e-5
        if choice.action_type != ACTION_TYPE_WAIT:
            assert choice.slot_id == slot_order(asked.snapshot)[int(slots[0, index].argmax())]
        seen.add((choice.action_type, choice.slot_id))
    assert len(seen) > 1


@pytest.mark.parametrize("temperature", [None, 0.5, 2.0])
def test_a_sampled_choice_has_the_network_s_log_probabilities_at_the_query_s_temperature(
    temperature: float | None,
) -> None:
    network = Network(seed=3)
    queries = [query(step, mode=SELECTION_MODE_SAMPLED) for step in range(60)]
    for asked in queries:
        if temperature is not None:
            asked.temperature = temperature
    for asked, choice in zip(queries, learned(network.version()).decide(queries), strict=True):
        types, slots, _ = network.run(vectorize(asked.snapshot, SEED_SPEC)[np.newaxis])
        types, slots = types / (temperature or 1.0), slots / (temperature or 1.0)
        index = ACTION_TYPES.index(choice.action_type)
        assert choice.type_log_prob is not None
        assert abs(choice.type_log_prob - _log_prob(types[0], index)) < 1e-5
        if choice.slot_log_prob is not None:
            slot = slot_order(asked.snapshot).index(choice.slot_id or "")
            assert abs(choice.slot_log_prob - _log_prob(slots[0, index], slot)) < 1e-5


def _log_prob(logits: Float32, index: int) -> float:
    wide = logits.astype(np.float64)
    return float(wide[index] - np.log(np.exp(wide).sum()))


def _any_slots() -> Version:
    """Return a version that decides for any number of slots."""
    version = Network().version(sums_graph())
    version.manifest.slots.any = True
    del version.manifest.golden_outputs[:]
    for slots in (1, 3):
        observation = Network(slots=slots).observations(1)
        types, slot_logits, value = sums(observation)
        version.manifest.golden_outputs.append(
            GoldenOutput(
                observation=observation[0].tolist(),
                type_logits=types[0].tolist(),
                slot_logits=slot_logits.ravel().tolist(),
                value=float(value[0]),
            )
        )
    return version


def _measure_everything(snapshot: MultiSlotSnapshot) -> None:
    snapshot.train_loss = 2.0
    snapshot.loss_history[:] = [2.0] * 5
    snapshot.accuracy_history[:] = [0.5] * 5
    for slot in snapshot.slots:
        slot.seed_improvement = 0.01


def test_an_artifact_for_any_number_of_slots_decides_for_different_ones_at_once() -> None:
    policy = learned(_any_slots())
    assert policy.slots is None
    queries = [
        query(step, slots=slots, mode=SELECTION_MODE_GREEDY)
        for step in range(5)
        for slots in (6, 1, 3, 12)
    ]
    choices = policy.decide(queries)
    assert list(choices) == [policy.decide([asked])[0] for asked in queries]
    for asked, choice in zip(queries, choices, strict=True):
        (value,) = sums(vectorize(asked.snapshot, SEED_SPEC)[np.newaxis])[2]
        assert choice.value is not None
        assert abs(choice.value - value) < 1e-4


async def test_an_answer_that_is_no_number_is_an_error_for_that_query_alone() -> None:
    network = Network(seed=5)
    root = helper.make_node("Sqrt", ["observation"], ["centred"])
    version = network.version(network.graph([root]))
    for golden in version.manifest.golden_outputs:
        observation = np.abs(np.array([golden.observation], np.float32))
        types, slots, value = network.run(np.sqrt(observation))
        golden.CopyFrom(
            GoldenOutput(
                observation=observation[0].tolist(),
                type_logits=types[0].tolist(),
                slot_logits=slots.ravel().tolist(),
                value=float(value[0]),
            )
        )
    policy = learned(version)
    queries = [query(step) for step in range(5)]
    for asked in queries:
        # Every measured value of these is at least 0; what was not measured stands below it.
        _measure_everything(asked.snapshot)
    queries[2].snapshot.ClearField("train_loss")
    async with DecisionBatcher(limit=10, in_thread=False) as batcher:
        answers = await asyncio.gather(
            *(batcher.decide(policy, asked) for asked in queries), return_exceptions=True
        )
    spoilt = answers.pop(2)
    assert isinstance(spoilt, LeylineError)
    assert spoilt.code is ErrorCode.ARTIFACT_CORRUPT
    assert all(isinstance(answer, Decision) for answer in answers)
