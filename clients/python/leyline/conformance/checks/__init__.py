"""What cases ask for, by the name that they call it. A check returns, or raises Failed or Skipped;
a ServiceError that it lets pass is a failure too."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from leyline.conformance.checks import decisions, handshake, limits, operations, security, streams

Check = Callable[..., Coroutine[Any, Any, None]]

CHECKS: Mapping[str, Check] = {
    check.__name__: check
    for check in (
        handshake.serves,
        handshake.introduces_itself,
        handshake.names_a_known_spec,
        handshake.refuses_another_spec,
        handshake.refuses_another_number_of_slots,
        handshake.refuses_an_unknown_version,
        handshake.keeps_to_a_pinned_version,
        handshake.is_reflected,
        decisions.decides,
        decisions.refuses_invalid,
        decisions.names_its_version,
        decisions.ignores_unknown_fields,
        decisions.is_greedy_whatever_the_seed,
        decisions.orders_slots_by_depth,
        decisions.repeats_itself,
        decisions.names_decisions,
        decisions.draws_what_it_says,
        decisions.keeps_the_temperature,
        streams.answers_in_order,
        streams.ends_after_the_last_answer,
        streams.puts_errors_in_their_place,
        streams.refuses_nothing_asked,
        streams.says_the_same_as_decide,
        streams.keeps_streams_apart,
        streams.survives_cancellation,
        limits.honours_deadlines,
        limits.takes_the_largest,
        limits.refuses_too_large,
        limits.survives_garbage,
        security.refuses_plain_text,
        security.refuses_without_token,
        security.refuses_a_wrong_token,
        operations.drains,
        operations.restarts,
    )
}
