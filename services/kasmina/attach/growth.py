"""A training loop of somebody else's as an episode: its network grows by a remote policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch

from kasmina.attach.connection import AttachError, Connection
from kasmina.attach.episode import RemoteEpisode, StepInHand
from kasmina.attach.graft import MisplacedStep
from kasmina.attach.growing_model import GrowingModel, checked_accuracy, checked_loss
from kasmina.network.growth import GrowingNetwork
from kasmina.network.slot import Action, NoOpReason, Slot
from kasmina.runs.observation import action_of, facts_message, snapshot_message
from leyline.v1.snapshot_pb2 import MultiSlotSnapshot
from leyline.v1.transition_pb2 import EXECUTION_RESULT_NO_OP
from leyline.v1.transition_pb2 import NoOpReason as NoOpReasonMessage


@dataclass(frozen=True)
class Move:
    """What was decided, and what became of it."""

    action: Action
    slot_id: str | None
    """None on WAIT."""
    no_op_reason: NoOpReason | None
    """Why nothing changed; None where the action was carried out."""
    policy_version: str | None
    """What decided; None where no policy answered."""
    fallback_reason: str | None
    """Why none did."""

    @classmethod
    def of(cls, step: StepInHand) -> Move:
        """The move of a step."""
        decision, execution = step.decided.decision, step.execution
        reason = None
        if execution.result == EXECUTION_RESULT_NO_OP:
            name = NoOpReasonMessage.Name(execution.no_op_reason)
            reason = NoOpReason(name.removeprefix("NO_OP_REASON_"))
        return cls(
            action=action_of(decision.action_type),
            slot_id=decision.slot_id if decision.HasField("slot_id") else None,
            no_op_reason=reason,
            policy_version=(
                decision.policy_version if decision.HasField("policy_version") else None
            ),
            fallback_reason=step.decided.fallback_reason,
        )


class Growth:
    """The growth of an attached model; `kasmina.attach.attach` makes it.

    A context manager that ends the episode: `with attach(...) as growth:`. Not to be used from
    several threads at once.
    """

    def __init__(
        self,
        model: GrowingModel,
        episode: RemoteEpisode,
        connection: Connection,
        run_id: str,
        end_patience_s: float,
    ) -> None:
        """The episode begins now, unless there was one that may be resumed: then with the first
        training pass, where `load_state_dict` does not say otherwise before."""
        self._model = model
        self._episode = episode
        self._connection = connection
        self._run_id = run_id
        self._end_patience_s = end_patience_s
        self._step: StepInHand | None = None
        self._closed = False
        self._has_begun = False
        if episode.may_be_resumed:
            model.before_training(self._begin)
        else:
            self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # An interrupt or an exit is somebody's wish, and no failure.
        failure = f"{type(error).__name__}: {error}" if isinstance(error, Exception) else None
        self._end(failure)

    @property
    def network(self) -> GrowingNetwork:
        """The model with its seeds, as one module: to count, to copy, to keep."""
        return self._model.network

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Where each slot's seed stands. To look at."""
        return self._model.network.slots

    @property
    def interval_count(self) -> int:
        """Decision intervals trained so far."""
        return self._model.interval

    @property
    def last_move(self) -> Move | None:
        """What was decided last; None before the episode began, and after its end."""
        return None if self._step is None else Move.of(self._step)

    def step(self, labels: Any, scaler: torch.amp.GradScaler | None = None) -> None:
        """Has the seeds learn from the model's last pass.

        To be called once for every backward pass: after it, and before optimizer.step(). `labels`
        go to the loss as they are. A `scaler` is the one that has scaled the loss; what it makes
        the host skip, seeds skip too.

        Raises:
            MisplacedStep: there is no such pass, or more than one.
            ValueError: the episode is over.
        """
        self._require_open("step")
        scale = float(scaler.get_scale()) if scaler is not None and scaler.is_enabled() else 1.0
        self._model.learn(labels, scale)

    def interval(self, *, train_loss: float, val_loss: float, val_accuracy: float) -> Move | None:
        """Ends a decision interval: hands it in, and has the next decision taken and carried out.

        Losses are means in nats, `val_accuracy` is a fraction in [0, 1], both of the validation
        that the loop has just made. Returns what was decided; None at the horizon, where the
        episode ends and seeds that are not fossilised are dropped (the validation of the last
        interval has left them out already).

        Raises:
            MisplacedStep: there was no step() since the last interval.
            ValueError: a number that cannot be, or the episode is over. Nothing has changed.
        """
        self._require_open("interval")
        validation = _checked(train_loss, val_loss, val_accuracy)
        if self._model.interval_is_empty or self._step is None:
            raise MisplacedStep("interval() without a step() since the last one")
        facts = self._model.end_interval(*validation)
        terminal = self._model.finished
        after = self._observation()
        message = facts_message(facts, self._model.snapshot())
        self._episode.complete(self._step, after, message, terminal=terminal)
        if terminal:
            self._step = None
            self._model.rest()
            return None
        return self._take_step(after)

    def end(self) -> None:
        """Ends the episode where it stands, and waits a moment for what is not recorded yet.

        Before the horizon the episode ends as cancelled, and seeds that are not fossilised are
        dropped. The model keeps its seeds, and can be called as before. An episode that ended can
        not be resumed; one that a dying process leaves can.
        """
        self._end(None)

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs beside the model and its optimiser, for a
        checkpoint of the loop's own.

        To be called between interval() and the next step(). Raises `MisplacedStep` where the
        episode has not begun yet.
        """
        if not self._has_begun:
            raise MisplacedStep("state_dict() before load_state_dict() or the first training pass")
        return {
            "run_id": self._run_id,
            "episode": self._episode.index,
            "step": None if self._step is None else self._step.state(),
            "growth": self._model.state(),
        }

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Goes on with the episode of which `state_dict` was taken.

        The model and its optimiser are restored by the loop. Steps that were recorded already are
        not recorded again, and decisions that were taken are not asked for again.

        Raises:
            AttachError: the episode is over, or of another run; or there is no state.
            ValueError: the state has other slots, or it is after end().
        """
        if self._closed:
            raise ValueError("load_state_dict() after end()")
        if state is None:
            raise AttachError(
                "the checkpoint has no state of growth: a loop that nothing was attached to has"
                " saved it; take another file, or begin without it"
            )
        if state["run_id"] != self._run_id:
            raise AttachError(
                f"the state is of run {state['run_id']!r}, this one is {self._run_id!r}: attach"
                " with that run_id"
            )
        step = None if state["step"] is None else StepInHand.from_state(state["step"])
        self._model.require_slots(state["growth"])
        self._episode.resume(state["episode"], None if step is None else step.snapshot)
        self._model.before_training(None)
        self._model.restore(state["growth"])
        self._step = step
        self._has_begun = True
        if step is None:
            self._model.rest()

    def _end(self, failure: str | None) -> None:
        if self._closed:
            return
        self._model.before_training(None)
        if self._step is not None:
            self._model.drop_unfossilized()
            self._model.rest()
            self._episode.give_up(failure)
            self._step = None
        self._closed = True
        self._connection.close(self._end_patience_s)

    def _begin(self) -> None:
        self._model.before_training(None)
        self._episode.begin(self._model.snapshot())
        self._has_begun = True
        self._take_step(self._observation())

    def _take_step(self, snapshot: MultiSlotSnapshot) -> Move:
        self._step = self._episode.take_step(snapshot, self._model.apply)
        self._model.begin_interval()
        return Move.of(self._step)

    def _observation(self) -> MultiSlotSnapshot:
        step_id = self._episode.step_id(self._model.interval)
        return snapshot_message(step_id, self._model.snapshot())

    def _require_open(self, call: str) -> None:
        if self._closed:
            raise ValueError(f"{call}() after end()")
        if self._model.finished:
            horizon = self._model.interval
            raise ValueError(
                f"{call}() after the horizon: the episode has had its {horizon} intervals"
            )
        if self._has_begun and self._step is None:
            raise ValueError(f"{call}() in an episode that ended before its horizon")


def _checked(train_loss: float, val_loss: float, val_accuracy: float) -> tuple[float, float, float]:
    return (
        checked_loss("train_loss", train_loss),
        checked_loss("val_loss", val_loss),
        checked_accuracy("val_accuracy", val_accuracy),
    )
