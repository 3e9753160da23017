"""Errors as they cross the wire: ``google.rpc.Status`` with its standard details, and back.

A status travels in HTTP/2 trailers, and gRPC lets those have 8 KiB: a client that gets more sees
RESOURCE_EXHAUSTED instead of the error. So what is sent is bounded here, details first to go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from chassis.errors import ErrorCode, LeylineError, Violation

DOMAIN = "leyline"
# Where gRPC's own libraries put and look for the status message.
DETAILS_KEY = "grpc-status-details-bin"

# In bytes before base64, which adds a third; with the message once more in its own trailer
# (three bytes for one, percent-encoded, at worst) it stays below 8 KiB.
_LARGEST_STATUS = 3584
_LONGEST_TEXT = 512
_MOST_VIOLATIONS = 16


def to_status(error: LeylineError, request_id: str | None = None) -> status_pb2.Status:
    """Say an error as a ``google.rpc.Status``.

    Args:
        error: what happened.
        request_id: the call's id, so that a client can quote it to whoever reads the log.

    Returns:
        A status with ErrorInfo always, BadRequest where the error names fields, RetryInfo where
        trying again may help, RequestInfo where there is an id. At most 3.5 KiB.
    """
    spec = error.code.spec
    violations = error.violations[:_MOST_VIOLATIONS]
    facts = {name: _bounded(str(value)) for name, value in error.facts.items()}
    message = _bounded(_message(error))
    while True:
        details = _details(error, request_id, violations, facts)
        status = status_pb2.Status(code=grpc_number(spec.status), message=message, details=details)
        if status.ByteSize() <= _LARGEST_STATUS:
            return status
        if violations:
            violations = violations[:-1]
        else:
            facts.popitem()


def grpc_number(status: grpc.StatusCode) -> int:
    """Give a status code's number in ``google.rpc.Code``."""
    return int(code_pb2.Code.Value(status.name))


def _message(error: LeylineError) -> str:
    if not error.violations:
        return str(error)
    first, more = error.violations[0], len(error.violations) - 1
    where = f"{first.field}: " if first.field else ""
    rest = f" (and {more} more)" if more else ""
    return f"{error}: {where}{first.description}{rest}"


def _bounded(text: str) -> str:
    encoded = text.encode(errors="replace")
    if len(encoded) <= _LONGEST_TEXT:
        return encoded.decode()
    return encoded[: _LONGEST_TEXT - 3].decode(errors="ignore") + "…"


def _details(
    error: LeylineError,
    request_id: str | None,
    violations: Sequence[Violation],
    facts: Mapping[str, str],
) -> list[any_pb2.Any]:
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=error.code.name, domain=DOMAIN, metadata=facts)
    ]
    if violations:
        bad_request = error_details_pb2.BadRequest()
        for violation in violations:
            bad_request.field_violations.add(
                field=_bounded(violation.field),
                description=_bounded(violation.description),
                reason=_bounded(violation.rule),
            )
        details.append(bad_request)
    if error.retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        details.append(retry)
    if request_id is not None:
        details.append(error_details_pb2.RequestInfo(request_id=request_id))
    return [_packed(detail) for detail in details]


def _packed(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed


@dataclass
class RemoteError(Exception):
    """What a server answered instead of a result.

    Attributes:
        status: the gRPC status code.
        message: for people; never to be parsed.
        reason: the catalogue's name, or empty where gRPC itself or a foreign server answered.
        metadata: the facts of ErrorInfo.
        violations: the fields to blame.
        retry_after_s: seconds after which the server asks to try again; None: it does not.
        request_id: the call's id in the server's log; empty where unknown.
    """

    status: grpc.StatusCode
    message: str
    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    violations: tuple[Violation, ...] = ()
    retry_after_s: float | None = None
    request_id: str = ""

    @property
    def error_code(self) -> ErrorCode | None:
        """The catalogue's entry, or None for a reason that this version does not know."""
        return ErrorCode.__members__.get(self.reason)

    @property
    def is_retryable(self) -> bool:
        """Whether the same request may succeed later: the server says so, or was not there."""
        return self.retry_after_s is not None or self.status is grpc.StatusCode.UNAVAILABLE

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.reason or self.status.name}: {self.message}"


def from_rpc_error(error: grpc.aio.AioRpcError) -> RemoteError:
    """Read what a failed call's trailers say; without details of ours, only code and message."""
    remote = RemoteError(status=error.code(), message=error.details() or "")
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                status = status_pb2.Status.FromString(value)
            except DecodeError:
                # Some proxy's or foreign server's own idea; code and message are still true.
                continue
            read_details(status, remote)
    return remote


def from_status(status: status_pb2.Status) -> RemoteError:
    """Read a status that came inside a message, as the items of a stream carry it."""
    name = code_pb2.Code.Name(status.code) if status.code in code_pb2.Code.values() else "UNKNOWN"
    remote = RemoteError(status=grpc.StatusCode[name], message=status.message)
    read_details(status, remote)
    return remote


def read_details(status: status_pb2.Status, remote: RemoteError) -> None:
    """Fill a remote error with the details of a status that this version knows."""
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    request = error_details_pb2.RequestInfo()
    for detail in status.details:
        if detail.Unpack(info):
            remote.reason = info.reason
            remote.metadata = dict(info.metadata)
        elif detail.Unpack(bad_request):
            remote.violations = tuple(
                Violation(field=broken.field, description=broken.description, rule=broken.reason)
                for broken in bad_request.field_violations
            )
        elif detail.Unpack(retry):
            remote.retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
        elif detail.Unpack(request):
            remote.request_id = request.request_id
