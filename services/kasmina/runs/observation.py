"""What the trainer measured and did, as messages of the contract."""

from __future__ import annotations

from kasmina.network.slot import Action, Outcome
from kasmina.training.interval import IntervalFacts
from kasmina.training.telemetry import SlotReading, Snapshot
from leyline.v1.decision_pb2 import ActionType
from leyline.v1.snapshot_pb2 import MultiSlotSnapshot, StepId
from leyline.v1.snapshot_pb2 import SlotReading as SlotReadingMessage
from leyline.v1.snapshot_pb2 import Stage as StageMessage
from leyline.v1.transition_pb2 import (
    EXECUTION_RESULT_EXECUTED,
    EXECUTION_RESULT_NO_OP,
    Execution,
    SlotFacts,
)
from leyline.v1.transition_pb2 import IntervalFacts as IntervalFactsMessage
from leyline.v1.transition_pb2 import (
    NoOpReason as NoOpReasonMessage,
)

_NANOSECONDS = 1_000_000_000


def action_of(action_type: ActionType.ValueType) -> Action:
    """The action that a valid decision names."""
    return Action(ActionType.Name(action_type).removeprefix("ACTION_TYPE_"))


def snapshot_message(step_id: StepId, snapshot: Snapshot) -> MultiSlotSnapshot:
    """The observation for a step."""
    return MultiSlotSnapshot(
        step_id=step_id,
        epoch=snapshot.epoch,
        global_step=snapshot.global_step,
        train_loss=snapshot.train_loss,
        val_loss=snapshot.val_loss,
        val_accuracy=snapshot.val_accuracy,
        plateau_epochs=snapshot.plateau_epochs,
        best_val_accuracy=snapshot.best_val_accuracy,
        best_val_loss=snapshot.best_val_loss,
        loss_history=snapshot.loss_history,
        accuracy_history=snapshot.accuracy_history,
        slots=[slot_message(slot) for slot in snapshot.slots],
        time_left=snapshot.time_left,
        size_ratio=snapshot.size_ratio,
        learning_rate=snapshot.learning_rate,
        generalization_gap=snapshot.generalization_gap,
    )


def slot_message(slot: SlotReading) -> SlotReadingMessage:
    """What one slot reports."""
    return SlotReadingMessage(
        slot_id=slot.slot_id,
        depth=slot.depth,
        gradient_norm=slot.gradient_norm,
        activation_sparsity=slot.activation_sparsity,
        has_seed=slot.has_seed,
        stage=StageMessage.Value(f"STAGE_{slot.stage}"),
        alpha=slot.alpha,
        epochs_in_stage=slot.epochs_in_stage,
        seed_improvement=slot.seed_improvement,
        seed_cost=slot.seed_cost,
        gradmax_norm=slot.gradmax_norm,
        ablation_delta=slot.ablation_delta,
    )


def execution_message(outcome: Outcome) -> Execution:
    """What became of a decision."""
    if outcome.no_op_reason is None:
        return Execution(result=EXECUTION_RESULT_EXECUTED, blueprint=outcome.blueprint)
    reason = NoOpReasonMessage.Value(f"NO_OP_REASON_{outcome.no_op_reason}")
    return Execution(result=EXECUTION_RESULT_NO_OP, no_op_reason=reason)


def facts_message(facts: IntervalFacts, after: Snapshot) -> IntervalFactsMessage:
    """Facts about an interval, `after` being the snapshot that closes it."""
    message = IntervalFactsMessage(
        training_images=facts.training_images,
        validation_images=facts.validation_images,
        parameters=facts.parameters,
        multiply_adds=facts.multiply_adds,
        multiply_adds_spent=facts.multiply_adds_spent,
        multiply_adds_bare=facts.multiply_adds_bare,
        validation_correct=facts.validation_correct,
        slots=[
            SlotFacts(
                slot_id=slot.slot_id, blueprint=slot.blueprint, output_ratio=slot.output_ratio
            )
            for slot in after.slots
        ],
    )
    message.duration.FromNanoseconds(int(facts.seconds * _NANOSECONDS))
    return message
