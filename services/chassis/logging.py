"""Logs: one event a line on standard error, JSON unless a person is watching.

structlog renders everything, also what libraries log through the standard library. What is bound
with ``bind_call`` stands in every line of the same call.
"""

from __future__ import annotations

import logging
import math
import sys
from typing import Final, Literal, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

REQUEST_ID: Final = "request_id"

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "json", "console"]


def configure(service: str, level: LogLevel = "info", log_format: LogFormat = "auto") -> None:
    """Route every log of this process to standard error.

    Args:
        service: stands in every line; one process is one service.
        level: the least severe that is written.
        log_format: ``auto`` is ``console`` on a terminal and ``json`` anywhere else.
    """

    def name_the_service(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event.setdefault("service", service)
        return event

    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        name_the_service,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    json_wanted = log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=_renderer(json_wanted)
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)


def _renderer(json_wanted: bool) -> list[Processor]:
    remove_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    if not json_wanted:
        # Plain tracebacks: structlog's default shows the locals, which hold other people's data.
        console = structlog.dev.ConsoleRenderer(
            exception_formatter=structlog.dev.plain_traceback, colors=sys.stderr.isatty()
        )
        return [remove_meta, console]
    return [
        remove_meta,
        structlog.processors.format_exc_info,
        _spell_non_finite,
        structlog.processors.JSONRenderer(),
    ]


def _spell_non_finite(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Write NaN and infinities as strings: a diverging loss must not make the line invalid JSON."""
    for key, value in event.items():
        if isinstance(value, float) and not math.isfinite(value):
            event[key] = str(value)
    return event


def get_logger(name: str) -> FilteringBoundLogger:
    """Give a logger; ``name`` is the module's, so that a level can be set for a part."""
    return cast(FilteringBoundLogger, structlog.get_logger(name))


def bind_call(**facts: object) -> None:
    """Add facts to every further log line of this call, and of the tasks that it starts.

    The names in use are ``run_id``, ``episode``, ``step`` and ``policy_version``; the interceptor
    binds ``request_id`` and ``method``. Each call runs in a context of its own, so nothing has to
    be unbound.
    """
    structlog.contextvars.bind_contextvars(**facts)


def bound_fact(name: str) -> str | None:
    """Give a fact that is bound to this call, as text, or None."""
    value = structlog.contextvars.get_contextvars().get(name)
    return None if value is None else str(value)
