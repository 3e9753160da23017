"""Experience as a trainer sends it that plays simulated episodes with three slots: every field that
it fills, with numbers that are a function of the step's name.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from leyline.observation import EXTENDED_SPEC
from leyline.v1.decision_pb2 import ActionType, Decision, SelectionMode
from leyline.v1.experience_pb2 import BeginEpisodeRequest, ExperienceItem
from leyline.v1.snapshot_pb2 import MultiSlotSnapshot, SlotReading, Stage, StepId
from leyline.v1.transition_pb2 import (
    Decider,
    EpisodeEnd,
    Execution,
    ExecutionResult,
    IntervalFacts,
    SlotFacts,
    Termination,
    Transition,
)

SLOTS = 3
HORIZON = 30
"""Steps of an episode, as of a run that asks for nothing else."""
STARTED = 1_700_000_000


def begin(run: str, index: int, horizon: int = HORIZON) -> BeginEpisodeRequest:
    """The call that begins an episode."""
    return BeginEpisodeRequest(
        run_id=run,
        episode_index=index,
        policy="random",
        mode=SelectionMode.SELECTION_MODE_SAMPLED,
        horizon=horizon,
        slots=SLOTS,
        spec_fingerprint=EXTENDED_SPEC.fingerprint,
    )


def items(run: str, index: int, fence: int, horizon: int = HORIZON) -> Iterator[ExperienceItem]:
    """All that is to be recorded of an episode, in order; not numbered."""
    for step in range(horizon):
        yield ExperienceItem(fence=fence, transition=transition(run, index, step, horizon))
    yield ExperienceItem(fence=fence, episode_end=end(run, index, horizon))


def transition(run: str, index: int, step: int, horizon: int = HORIZON) -> Transition:
    """A step: always the same for the same name."""
    draw = random.Random(f"{run}/{index}/{step}")
    action = ActionType.ValueType(draw.randint(1, 4))
    slot = None if action == ActionType.ACTION_TYPE_WAIT else f"slot-{draw.randrange(SLOTS)}"
    transition = Transition(
        step_id=StepId(run_id=run, episode_index=index, step=step),
        snapshot=_snapshot(run, index, step, horizon),
        decision=Decision(
            decision_id=f"{draw.getrandbits(128):032x}",
            action_type=action,
            slot_id=slot,
            policy_version="random-1",
            type_log_prob=-1.3862943611198906,
            slot_log_prob=None if slot is None else -1.0986122886681098,
            log_prob=-1.3862943611198906 if slot is None else -2.4849066497880004,
            mode=SelectionMode.SELECTION_MODE_SAMPLED,
        ),
        decider=Decider.DECIDER_POLICY,
        execution=Execution(result=ExecutionResult.EXECUTION_RESULT_EXECUTED),
        next_snapshot=_snapshot(run, index, step + 1, horizon),
        terminal=step == horizon - 1,
        facts=IntervalFacts(
            training_images=9984,
            validation_images=5000,
            parameters=30_000,
            multiply_adds=3_000_000,
            multiply_adds_spent=104_856_000_000 * (step + 1),
            multiply_adds_bare=104_856_000_000,
            slots=[SlotFacts(slot_id=f"slot-{depth}") for depth in range(SLOTS)],
        ),
        spec_fingerprint=EXTENDED_SPEC.fingerprint,
    )
    transition.facts.duration.nanos = draw.randrange(10**9)
    transition.completed_at.FromSeconds(STARTED + index * horizon + step)
    return transition


def end(run: str, index: int, horizon: int = HORIZON) -> EpisodeEnd:
    """The end of an episode, at its horizon."""
    end = EpisodeEnd(
        run_id=run,
        episode_index=index,
        termination=Termination.TERMINATION_HORIZON,
        steps=horizon,
    )
    end.ended_at.FromSeconds(STARTED + (index + 1) * horizon)
    return end


def _snapshot(run: str, index: int, step: int, horizon: int) -> MultiSlotSnapshot:
    draw = random.Random(f"{run}/{index}/{step}/seen")
    losses = [draw.uniform(2, 5) for _ in range(min(step + 1, 5))]
    accuracies = [draw.random() for _ in losses]
    return MultiSlotSnapshot(
        step_id=StepId(run_id=run, episode_index=index, step=step),
        epoch=step,
        global_step=78 * step,
        train_loss=draw.uniform(2, 5),
        val_loss=losses[-1],
        val_accuracy=accuracies[-1],
        best_val_accuracy=max(accuracies),
        best_val_loss=min(losses),
        loss_history=losses,
        accuracy_history=accuracies,
        slots=[
            SlotReading(
                slot_id=f"slot-{depth}",
                depth=depth,
                stage=Stage.STAGE_DORMANT,
                epochs_in_stage=step,
                gradient_norm=draw.random(),
                activation_sparsity=draw.random(),
                seed_cost=draw.random(),
                gradmax_norm=draw.random(),
            )
            for depth in range(SLOTS)
        ],
        time_left=1 - step / horizon,
        size_ratio=1.0,
        learning_rate=draw.uniform(0, 0.1),
        generalization_gap=draw.uniform(-1, 1),
    )
