"""Experience of every shape that the contract allows, made up from a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence

from leyline.client import Episode
from leyline.observation import SEED_SPEC
from leyline.v1.decision_pb2 import ActionType, Decision, SelectionMode
from leyline.v1.episode_pb2 import EpisodeOrigin
from leyline.v1.experience_pb2 import BeginEpisodeRequest, EpisodeHead, ExperienceItem
from leyline.v1.observation_pb2 import ObservationSpec
from leyline.v1.policy_pb2 import SlotRequirement
from leyline.v1.snapshot_pb2 import MultiSlotSnapshot, SlotReading, Stage, StepId
from leyline.v1.transition_pb2 import (
    Decider,
    EpisodeEnd,
    Execution,
    ExecutionResult,
    NoOpReason,
    Termination,
    Transition,
)

BEGAN_S = 1_700_000_000


def made_episode(
    seed: int,
    steps: int,
    *,
    run_id: str = "run",
    index: int = 0,
    slots: int = 3,
    spec: ObservationSpec = SEED_SPEC,
    termination: Termination.ValueType | None = Termination.TERMINATION_HORIZON,
    versions: Sequence[str] = ("mlp-000000000000",),
) -> Episode:
    """Return an episode that keeps every rule; the same seed makes the same one.

    Args:
        steps: how many it has; its horizon, where that is how it ended.
        termination: how it ended; None: it goes on.
        versions: the versions that decide, in turn.
    """
    return _Making(random.Random(seed), run_id, index, slots, spec.fingerprint).episode(
        steps, termination, versions
    )


def begin(episode: Episode, *, follows_registry: bool = False) -> BeginEpisodeRequest:
    """The call with which a trainer began it."""
    head = episode.head
    return BeginEpisodeRequest(
        run_id=head.run_id,
        episode_index=head.episode_index,
        policy=head.policy,
        follows_registry=follows_registry,
        mode=head.mode,
        horizon=head.horizon,
        slots=head.slots.exactly,
        spec_fingerprint=head.spec_fingerprint,
        origin=head.origin if head.HasField("origin") else None,
    )


def items(episode: Episode, fence: int = 1) -> list[ExperienceItem]:
    """All that is to be recorded of it."""
    everything = [ExperienceItem(fence=fence, transition=step) for step in episode.steps]
    if episode.end is not None:
        everything.append(ExperienceItem(fence=fence, episode_end=episode.end))
    for sequence, item in enumerate(everything, 1):
        item.sequence = sequence
    return everything


class _Making:
    def __init__(
        self, draw: random.Random, run_id: str, index: int, slots: int, fingerprint: str
    ) -> None:
        self._draw = draw
        self._run_id = run_id
        self._index = index
        self._slots = slots
        self._fingerprint = fingerprint

    def episode(
        self, steps: int, termination: Termination.ValueType | None, versions: Sequence[str]
    ) -> Episode:
        is_whole = termination == Termination.TERMINATION_HORIZON
        horizon = steps if is_whole else steps + self._draw.randint(1, 9)
        head = EpisodeHead(
            run_id=self._run_id,
            episode_index=self._index,
            policy=self._draw.choice(["learned", "heuristic", "ein eigenes"]),
            steps=steps,
            spec_fingerprint=self._fingerprint,
            slots=SlotRequirement(exactly=self._slots),
            origin=self._origin() if self._chance() else None,
            mode=SelectionMode.ValueType(self._draw.randint(1, 2)),
            horizon=horizon,
        )
        head.began_at.FromMicroseconds(BEGAN_S * 1_000_000 + self._index)
        snapshots = [self._snapshot(step) for step in range(steps + 1)]
        transitions = [
            self._transition(snapshots[step], snapshots[step + 1], versions[step % len(versions)])
            for step in range(steps)
        ]
        if is_whole and transitions:
            transitions[-1].terminal = True
        episode = Episode(head, transitions)
        if termination is not None:
            episode.end = EpisodeEnd(
                run_id=self._run_id,
                episode_index=self._index,
                termination=termination,
                steps=steps,
                message="" if is_whole else "ein Grund, für Menschen",
            )
            episode.end.ended_at.FromMicroseconds((BEGAN_S + steps) * 1_000_000)
        return episode

    def _chance(self) -> bool:
        return self._draw.random() < 0.7

    def _measured(self, low: float = 0.0, high: float = 1.0) -> float | None:
        return self._draw.uniform(low, high) if self._chance() else None

    def _origin(self) -> EpisodeOrigin:
        origin = EpisodeOrigin()
        origin.seeds.data = self._draw.getrandbits(64)
        if self._chance():
            origin.situation.range = "hard"
            origin.situation.held_out = self._chance()
            origin.situation.channels.extend([16, 32, 64])
        if self._chance():
            origin.twin.run_id, origin.twin.episode_index = "twins", self._index
        if self._chance():
            origin.fork.parent.run_id, origin.fork.step = "parent", 3
        return origin

    def _snapshot(self, step: int) -> MultiSlotSnapshot:
        slots = [self._reading(depth) for depth in range(self._slots)]
        self._draw.shuffle(slots)
        losses = [self._draw.uniform(0, 5) for _ in range(min(step, 5))]
        return MultiSlotSnapshot(
            step_id=StepId(run_id=self._run_id, episode_index=self._index, step=step),
            epoch=step,
            global_step=step * 79,
            train_loss=self._measured(0, 5),
            val_loss=self._measured(0, 5),
            val_accuracy=self._measured(),
            plateau_epochs=self._draw.randint(0, 9),
            best_val_accuracy=self._measured(),
            loss_history=losses,
            accuracy_history=[loss / 5 for loss in losses],
            slots=slots,
            time_left=self._measured(),
            size_ratio=self._measured(1, 2),
            learning_rate=self._measured(),
            generalization_gap=self._measured(-1, 1),
        )

    def _reading(self, depth: int) -> SlotReading:
        stage = Stage.ValueType(self._draw.randint(1, 5))
        alphas = {Stage.STAGE_BLENDING: self._draw.random(), Stage.STAGE_FOSSILIZED: 1.0}
        return SlotReading(
            slot_id=f"slot-{depth}",
            depth=depth,
            stage=stage,
            has_seed=stage != Stage.STAGE_DORMANT,
            alpha=alphas.get(stage, 0.0),
            epochs_in_stage=self._draw.randint(0, 9),
            gradient_norm=self._measured(),
            activation_sparsity=self._measured(),
            seed_improvement=self._measured(-1, 1),
            seed_cost=self._measured(),
            gradmax_norm=self._measured(),
            ablation_delta=self._measured(-1, 1),
        )

    def _transition(
        self, snapshot: MultiSlotSnapshot, following: MultiSlotSnapshot, version: str
    ) -> Transition:
        step = snapshot.step_id.step
        is_fallback = self._draw.random() < 0.1
        transition = Transition(
            step_id=snapshot.step_id,
            snapshot=snapshot,
            decision=self._fallback(step) if is_fallback else self._decision(step, version),
            decider=Decider.DECIDER_FALLBACK if is_fallback else Decider.DECIDER_POLICY,
            execution=Execution(result=ExecutionResult.EXECUTION_RESULT_EXECUTED),
            next_snapshot=following,
            spec_fingerprint=self._fingerprint,
            fallback_reason="zu spät" if is_fallback else None,
        )
        decision = transition.decision
        if decision.slot_id == "nowhere":
            transition.execution.result = ExecutionResult.EXECUTION_RESULT_NO_OP
            transition.execution.no_op_reason = NoOpReason.NO_OP_REASON_UNKNOWN_SLOT
        elif decision.action_type == ActionType.ACTION_TYPE_GERMINATE:
            transition.execution.blueprint = "conv3x3"
        if self._chance():
            facts = transition.facts
            facts.training_images, facts.validation_images = 5000, 1000
            facts.duration.FromMilliseconds(self._draw.randint(1, 10_000))
            facts.parameters = 24_000
            if self._chance():
                facts.multiply_adds = 2**64 - 1
                facts.multiply_adds_spent = self._draw.getrandbits(63)
            facts.validation_correct = self._draw.randbytes(125)
        transition.completed_at.FromNanoseconds(BEGAN_S * 10**9 + step * 10**9 + 123_456_789)
        return transition

    def _fallback(self, step: int) -> Decision:
        return Decision(
            decision_id=f"fallback-{step}",
            action_type=ActionType.ACTION_TYPE_WAIT,
            mode=SelectionMode.SELECTION_MODE_GREEDY,
        )

    def _decision(self, step: int, version: str) -> Decision:
        action = ActionType.ValueType(self._draw.randint(1, 4))
        decision = Decision(
            decision_id=f"{self._run_id}-{self._index}-{step}",
            action_type=action,
            policy_version=version,
            type_log_prob=-self._draw.random(),
            value=self._measured(-3, 3),
            mode=SelectionMode.SELECTION_MODE_SAMPLED,
        )
        decision.log_prob = decision.type_log_prob
        if action != ActionType.ACTION_TYPE_WAIT:
            there = [f"slot-{depth}" for depth in range(self._slots)]
            decision.slot_id = self._draw.choice([*there, "nowhere"])
            decision.slot_log_prob = -self._draw.random()
            decision.log_prob += decision.slot_log_prob
        return decision
