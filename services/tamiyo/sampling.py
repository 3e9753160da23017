"""An action out of a policy's logits, reproducibly.

All randomness is the query's ``sampling_seed``. Draw k of a query is a number in [0, 1) with 53
bits: the upper ones of the first 8 bytes, big-endian, of SHA-256 over the ASCII text
``leyline/draw/1:{sampling_seed}:{k}``. Draw 0 picks the type, draw 1 the slot given the type. A
hash instead of a generator, because any language can compute it and no library can change it.

Probabilities are softmaxes of the logits in double precision; an action is the first whose
cumulative probability exceeds the draw. Greedy takes the largest logit, of equals the first. A
temperature divides the logits before anything is drawn from them.
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
    temperature: float = 1.0,
    value: float | None = None,
) -> Choice:
    """Choose a type, then a slot given the type.

    Args:
        type_logits: 4 of them, in the order of ``ACTION_TYPES``.
        slot_logits: one row for each type, one logit in it for each slot.
        slot_ids: the slots, in the logits' order.
        sampling_seed: all the randomness; not used where the mode is greedy.
        mode: sampled or greedy.
        temperature: above 0; not used where the mode is greedy.
        value: passed through.

    Raises:
        ValueError: a logit that matters is not finite.
    """

    def pick(logits: Sequence[float], index: int) -> tuple[int, float]:
        if mode == SELECTION_MODE_GREEDY:
            return _most_likely(logits)
        if temperature != 1.0:
            logits = [logit / temperature for logit in logits]
        return _drawn(logits, draw(sampling_seed, index))

    type_index, type_log_prob = pick(type_logits, 0)
    action_type = ACTION_TYPES[type_index]
    if action_type == ACTION_TYPE_WAIT:
        return Choice(action_type, mode, type_log_prob=type_log_prob, value=value)
    slot_index, slot_log_prob = pick(slot_logits[type_index], 1)
    return Choice(action_type, mode, slot_ids[slot_index], type_log_prob, slot_log_prob, value)


def _most_likely(logits: Sequence[float]) -> tuple[int, float]:
    # Of the logits, not of the log-probabilities: rounding makes equals of neighbours there.
    chosen = max(range(len(logits)), key=logits.__getitem__)
    return chosen, log_softmax(logits)[chosen]


def _drawn(logits: Sequence[float], position: float) -> tuple[int, float]:
    log_probs = log_softmax(logits)
    chosen = _quantile(log_probs, position)
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
