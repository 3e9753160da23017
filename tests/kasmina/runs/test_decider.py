"""What a policy is asked."""

from __future__ import annotations

import pytest

from kasmina.runs.decider import question
from kasmina.runs.episode_log import EpisodeRecord
from kasmina.runs.run_spec import fingerprint_of
from leyline.identity import sampling_seed
from leyline.rules import violations
from leyline.v1.decision_pb2 import SELECTION_MODE_SAMPLED
from leyline.v1.episode_pb2 import EpisodeOrigin
from leyline.v1.snapshot_pb2 import STAGE_DORMANT, MultiSlotSnapshot, SlotReading, StepId
from leyline.v1.trainer_pb2 import PolicySpec, RunSpec
from leyline.v1.transition_pb2 import TERMINATION_UNSPECIFIED

SNAPSHOT = MultiSlotSnapshot(
    step_id=StepId(run_id="mine", episode_index=2, step=5),
    slots=[SlotReading(slot_id="slot-0", stage=STAGE_DORMANT)],
)


def record(policy_version: str | None = None) -> EpisodeRecord:
    """An episode that goes on."""
    return EpisodeRecord(
        run_id="mine",
        episode_index=2,
        origin=EpisodeOrigin(),
        policy="learned",
        follows_registry=True,
        policy_version=policy_version,
        mode=SELECTION_MODE_SAMPLED,
        fence=None,
        steps=5,
        termination=TERMINATION_UNSPECIFIED,
        network_sha256=None,
        network_size=None,
    )


@pytest.mark.parametrize("temperature", [None, 0.5])
def test_a_question_has_what_the_run_and_the_episode_say(temperature: float | None) -> None:
    spec = RunSpec(seed=7, observation_spec="seed", policy=PolicySpec(temperature=temperature))
    asked = question(spec, record("mlp-1"), SNAPSHOT)
    assert not violations(asked)
    assert asked.spec_fingerprint == fingerprint_of(spec)
    assert asked.sampling_seed == sampling_seed(7, 2, 5)
    assert asked.mode == SELECTION_MODE_SAMPLED
    assert asked.policy_version == "mlp-1"
    assert (asked.temperature if asked.HasField("temperature") else None) == temperature


def test_an_episode_without_a_version_asks_for_none() -> None:
    assert not question(RunSpec(observation_spec="seed"), record(), SNAPSHOT).HasField(
        "policy_version"
    )
