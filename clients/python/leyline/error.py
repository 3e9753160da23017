"""What a service said when it refused a call, in words and for programs."""

from __future__ import annotations

from dataclasses import dataclass, field

import grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2

_DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True)
class Violation:
    """A field that breaks a rule."""

    field: str
    """Its path, as in `spec.host.name`; empty for the message itself."""
    description: str
    """What the rule wants."""


@dataclass
class ServiceError(Exception):
    """A call did not succeed."""

    code: str
    """gRPC's status code: `NOT_FOUND`, `UNAVAILABLE`."""
    reason: str
    """Machine-readable reason of the catalogue, as in docs/errors.md; empty where there is none."""
    message: str
    """For people."""
    metadata: dict[str, str] = field(default_factory=dict)
    """Facts about the reason, by name."""
    violations: tuple[Violation, ...] = ()
    """The fields that break a rule."""
    retry_after_s: float | None = None
    """Seconds after which trying again makes sense, where it does."""

    def __str__(self) -> str:
        lines = [f"{self.message} ({self.reason or self.code})"]
        lines += [
            f"  {violation.field or 'the request'}: {violation.description}"
            for violation in self.violations
        ]
        return "\n".join(lines)

    @property
    def is_transient(self) -> bool:
        """Whether the same call may succeed later."""
        return self.code == "UNAVAILABLE" or self.retry_after_s is not None


def from_rpc_error(error: grpc.aio.AioRpcError, address: str) -> ServiceError:
    """Return what a failed call to an address says."""
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            return from_status(status_pb2.Status.FromString(value))
    code, message = error.code(), error.details() or error.code().name
    if code is grpc.StatusCode.UNAVAILABLE:
        # gRPC tells at length what it tried; that nobody listens there is all there is to know.
        why = "" if "Connection refused" in message else f": {message}"
        message = f"no service answers at {address}{why}"
    return ServiceError(code.name, "", message)


def from_status(status: status_pb2.Status) -> ServiceError:
    """Return what a status says, whether it ended a call or stands inside a message."""
    said = ServiceError(code_pb2.Code.Name(status.code), "", status.message)
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo.FromString(detail.value)
            said.reason, said.metadata = info.reason, dict(info.metadata)
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            request = error_details_pb2.BadRequest.FromString(detail.value)
            said.violations = tuple(
                Violation(violation.field, violation.description)
                for violation in request.field_violations
            )
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
            said.retry_after_s = delay.ToTimedelta().total_seconds()
    return said
