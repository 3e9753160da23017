"""Traces of steps and calls, where a collector's address is set.

OpenTelemetry is imported here and nowhere before: who is not traced need not have it, and does not
wait for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chassis.process import ConfigurationError
from leyline.installation import MissingExtra

if TYPE_CHECKING:
    from chassis.settings import ServerSettings
    from chassis.spans import Tracing


def open_tracing(service: str, settings: ServerSettings) -> Tracing | None:
    """Begin to trace, where the settings say whom to tell; whoever traces closes it.

    Args:
        service: its name in traces.
        settings: whom to tell, how much of it, and by which certificates.

    Raises:
        ConfigurationError: the extra ``tracing`` is not installed, or a certificate cannot be used.
    """
    if settings.trace_endpoint is None:
        return None
    try:
        from chassis.spans import Tracing
    except ModuleNotFoundError as error:
        missing = MissingExtra("tracing", [error.name or "opentelemetry"])
        variable = settings.variable("trace_endpoint")
        raise ConfigurationError(f"{variable}={settings.trace_endpoint}: {missing}") from None
    return Tracing(
        service, settings.trace_endpoint, settings.peer_credentials, settings.trace_ratio
    )
