"""An action out of a policy's logits, reproducibly.

All randomness is the query's ``sampling_seed``. Draw k of a query is a number in [0, 1) with 53
bits: the upper ones of the first 8 bytes, big-endian, of SHA-256 over the ASCII text
``leyline/draw/1:{sampling_seed}:{k}``. Draw 0 picks the type, draw 1 the slot given the type. A
hash instead of a generator, because any language can compute it and no library can change it.

Probabilities are softmaxes of the logits in double precision; an action is the first whose
cumulative probability exceeds the draw. Greedy takes the largest logit, of equals the first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from leyline.identity import derived_seed
from leyline.v1.decision_pb2 import (
    ACTION_TYPE_ADVANCE,
    ACTION_TYPE_CULL,
    ACTION_TYPE_GERMINATE,
    ACTION_TYPE_WAIT,
    SELECTION_MODE_GREEDY,
    SelectionMode,
)
from tamiyo.policy import Choice

ACTION_TYPES = (
    ACTION_TYPE_WAIT,
    ACTION_TYPE_GERMINATE,
    ACTION_TYPE_ADVANCE,
    ACTION_TYPE_CULL,
)
"""The order of the type logits, which the contract fixes for every artifact."""


def draw(sampling_seed: int, index: int) -> float:
    """Return draw ``index`` of a query, in [0, 1)."""
    return (derived_seed("draw", sampling_seed, index) >> 11) * 2.0**-53


def log_softmax(logits: Sequence[float]) -> list[float]:
    """Return log-probabilities in nats, each at most 0.

    Raises:
        ValueError: a logit is not finite.
    """
    if not all(map(math.isfinite, logits)):
        raise ValueError("a logit is not a finite number")
    largest = max(logits)
    normaliser = math.log(math.fsum([math.exp(logit - largest) for logit in logits]))
    return [logit - largest - normaliser for logit in logits]


def choose(
    type_logits: Sequence[float],
    slot_logits: Sequence[Sequence[float]],
    slot_ids: Sequence[str],
    *,
    sampling_seed: int,
    mode: SelectionMode.ValueType,
    value: float | None = None,
) -> Choice:
    """Choose a type, then a slot given the type.

    Args:
        type_logits: 4 of them, in the order of ``ACTION_TYPES``.
        slot_logits: one row for each type, one logit in it for each slot.
        slot_ids: the slots, in the logits' order.
        sampling_seed: all the randomness; not used where the mode is greedy.
        mode: sampled or greedy.
        value: passed through.

    Raises:
        ValueError: a logit that matters is not finite.
    """
    type_index, type_log_prob = _pick(type_logits, mode, sampling_seed, 0)
    action_type = ACTION_TYPES[type_index]
    if action_type == ACTION_TYPE_WAIT:
        return Choice(action_type, mode, type_log_prob=type_log_prob, value=value)
    slot_index, slot_log_prob = _pick(slot_logits[type_index], mode, sampling_seed, 1)
    return Choice(action_type, mode, slot_ids[slot_index], type_log_prob, slot_log_prob, value)


def _pick(
    logits: Sequence[float], mode: SelectionMode.ValueType, sampling_seed: int, index: int
) -> tuple[int, float]:
    log_probs = log_softmax(logits)
    if mode == SELECTION_MODE_GREEDY:
        # Of the logits, not of the log-probabilities: rounding makes equals of neighbours there.
        chosen = max(range(len(logits)), key=logits.__getitem__)
    else:
        chosen = _quantile(log_probs, draw(sampling_seed, index))
    return chosen, log_probs[chosen]


def _quantile(log_probs: Sequence[float], position: float) -> int:
    cumulative = 0.0
    chosen = 0
    for index, log_prob in enumerate(log_probs):
        probability = math.exp(log_prob)
        if probability > 0.0:
            # Rounding can leave the sum short of 1: then it is the last one that is possible.
            chosen = index
            cumulative += probability
            if position < cumulative:
                break
    return chosen
