"""The catalogue of everything that a service may answer instead of a result.

A domain class raises ``LeylineError`` with a code and the facts; ``chassis.status`` turns it into
a ``google.rpc.Status`` and ``chassis.interceptor`` sends it. The name of a code is its reason on
the wire, so it is never renamed. ``docs/errors.md`` has a row for each code: what it means and
what to do; a test holds the two together.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, unique

from grpc import StatusCode


@dataclass(frozen=True)
class ErrorSpec:
    """What a code says to a client.

    Attributes:
        status: the gRPC status code.
        message: public text; ``{name}`` stands for a fact that the error carries.
        retry_after_s: seconds after which the same request may succeed; None: it will not.
    """

    status: StatusCode
    message: str
    retry_after_s: float | None = None

    @property
    def facts(self) -> frozenset[str]:
        """The names in the message, each of which an error of this code must carry."""
        return frozenset(name for _, name, _, _ in string.Formatter().parse(self.message) if name)


@unique
class ErrorCode(Enum):
    """Every reason, with its specification. A new one is a member here, a row in docs/errors.md."""

    # Requests
    INVALID_ARGUMENT = ErrorSpec(StatusCode.INVALID_ARGUMENT, "the request is invalid")
    DEADLINE_EXCEEDED = ErrorSpec(
        StatusCode.DEADLINE_EXCEEDED, "the call did not finish within {limit_s} s"
    )
    METHOD_NOT_IMPLEMENTED = ErrorSpec(
        StatusCode.UNIMPLEMENTED, "{method} is not implemented by this server"
    )
    UNAUTHENTICATED = ErrorSpec(
        StatusCode.UNAUTHENTICATED, "this server wants to know who calls: {problem}"
    )
    SCOPE_MISSING = ErrorSpec(
        StatusCode.PERMISSION_DENIED,
        "{method} is not for the token of {caller!r}, whose scopes are: {given}",
    )

    # Runs and episodes
    RUN_NOT_FOUND = ErrorSpec(StatusCode.NOT_FOUND, "there is no run {run_id!r}")
    RUN_EXISTS = ErrorSpec(
        StatusCode.ALREADY_EXISTS, "run {run_id!r} exists already with another specification"
    )
    EPISODE_DRIVEN = ErrorSpec(
        StatusCode.ABORTED,
        "episode {episode_index} of run {run_id!r} is driven by another stream",
    )
    EPISODE_NOT_FOUND = ErrorSpec(
        StatusCode.NOT_FOUND, "run {run_id!r} has no episode {episode_index}"
    )
    EPISODE_NOT_BEGUN = ErrorSpec(
        StatusCode.FAILED_PRECONDITION,
        "episode {episode_index} of run {run_id!r} has not begun: call BeginEpisode first",
    )
    STALE_FENCE = ErrorSpec(
        StatusCode.ABORTED,
        "fence {fence} of episode {episode_index} of run {run_id!r} is stale: "
        "another trainer has begun it again",
    )
    TRANSITION_CONFLICT = ErrorSpec(
        StatusCode.ALREADY_EXISTS,
        "step {step} of episode {episode_index} of run {run_id!r} is stored with another content",
    )
    EPISODE_ENDED = ErrorSpec(
        StatusCode.FAILED_PRECONDITION,
        "episode {episode_index} of run {run_id!r} has ended: {termination} after {steps} steps",
    )
    NETWORK_UNUSABLE = ErrorSpec(
        StatusCode.FAILED_PRECONDITION,
        "the network of episode {episode_index} of run {run_id!r} cannot be used: {problem}",
    )

    # Names that a run asks for
    UNKNOWN_HOST = ErrorSpec(
        StatusCode.INVALID_ARGUMENT, "there is no host {host!r}; known: {known}"
    )
    UNKNOWN_BLUEPRINT = ErrorSpec(
        StatusCode.INVALID_ARGUMENT, "there is no blueprint {blueprint!r}; known: {known}"
    )
    UNKNOWN_SLOT = ErrorSpec(
        StatusCode.INVALID_ARGUMENT, "there is no slot {slot_id!r}; known: {known}"
    )
    UNKNOWN_DATASET = ErrorSpec(
        StatusCode.INVALID_ARGUMENT, "there is no dataset {dataset!r}; known: {known}"
    )
    UNKNOWN_POLICY = ErrorSpec(
        StatusCode.INVALID_ARGUMENT, "there is no policy {policy!r}; known: {known}"
    )

    # Data
    DATASET_NOT_FOUND = ErrorSpec(
        StatusCode.FAILED_PRECONDITION,
        "no dataset {dataset!r} in any of: {looked_in}; "
        "set {variable} to the directory that has it",
    )
    DATASET_CORRUPT = ErrorSpec(
        StatusCode.FAILED_PRECONDITION, "dataset {dataset!r} cannot be read: {file}: {problem}"
    )

    # Policies and their artifacts
    FINGERPRINT_MISMATCH = ErrorSpec(
        StatusCode.FAILED_PRECONDITION,
        "the observation's fingerprint is {given}, the policy was made for {expected}",
    )
    SLOT_COUNT_MISMATCH = ErrorSpec(
        StatusCode.FAILED_PRECONDITION,
        "the snapshot has {given} slots, the policy takes {expected}",
    )
    POLICY_NOT_READY = ErrorSpec(
        StatusCode.UNAVAILABLE, "no policy is loaded yet: {problem}", retry_after_s=1.0
    )
    POLICY_VERSION_NOT_FOUND = ErrorSpec(
        StatusCode.NOT_FOUND, "there is no policy version {policy_version!r}"
    )
    VERSION_NOT_READY = ErrorSpec(
        StatusCode.UNAVAILABLE,
        "episode {episode_index} of run {run_id!r} is to be decided by the version after update "
        "{update}, which is not there yet",
        retry_after_s=0.25,
    )
    VERSION_DOES_NOT_FIT = ErrorSpec(
        StatusCode.FAILED_PRECONDITION,
        "{policy_version!r} does not decide for episodes that are being played: {problem}",
    )
    NOTHING_TO_ROLL_BACK = ErrorSpec(
        StatusCode.FAILED_PRECONDITION, "no version was active before the active one"
    )
    ARTIFACT_CORRUPT = ErrorSpec(
        StatusCode.INVALID_ARGUMENT, "the artifact of {policy_version!r} cannot be used: {problem}"
    )
    ARTIFACT_DIGEST_MISMATCH = ErrorSpec(
        StatusCode.INVALID_ARGUMENT,
        "the artifact of {policy_version!r} has sha256 {given}, its manifest says {expected}",
    )

    # Learning
    TRAINING_ALREADY_RUNNING = ErrorSpec(
        StatusCode.FAILED_PRECONDITION, "training {training_id!r} is running already"
    )
    TRAINING_EXISTS = ErrorSpec(
        StatusCode.ALREADY_EXISTS, "training {training_id!r} exists already with another plan"
    )
    TRAINING_NOT_FOUND = ErrorSpec(StatusCode.NOT_FOUND, "there is no training {training_id!r}")

    # The server itself
    QUEUE_FULL = ErrorSpec(
        StatusCode.RESOURCE_EXHAUSTED,
        "{queue} is full: {limit} are waiting already",
        retry_after_s=0.5,
    )
    TOO_MANY_CALLS = ErrorSpec(
        StatusCode.RESOURCE_EXHAUSTED,
        "the server has {limit} calls open already, and takes no more at once",
        retry_after_s=0.5,
    )
    TOO_MANY_CALLS_OF_CALLER = ErrorSpec(
        StatusCode.RESOURCE_EXHAUSTED,
        "{caller} has {limit} calls open already, and is let have no more at once",
        retry_after_s=0.5,
    )
    CALLER_TOO_FAST = ErrorSpec(
        StatusCode.RESOURCE_EXHAUSTED,
        "{caller} calls more often than {limit} times a second",
        retry_after_s=1.0,
    )
    DISK_FULL = ErrorSpec(
        StatusCode.RESOURCE_EXHAUSTED,
        "no room is left on the disk of {path}",
        retry_after_s=10.0,
    )
    DATABASE_UNAVAILABLE = ErrorSpec(
        StatusCode.UNAVAILABLE, "the database of this service cannot be reached", retry_after_s=1.0
    )
    SHUTTING_DOWN = ErrorSpec(
        StatusCode.UNAVAILABLE, "the server is shutting down", retry_after_s=1.0
    )
    INTERNAL = ErrorSpec(
        StatusCode.INTERNAL, "something went wrong here; the server's log has it as {error_id}"
    )

    @property
    def spec(self) -> ErrorSpec:
        """What the code says to a client."""
        return self.value


@dataclass(frozen=True)
class Violation:
    """One rule that a request breaks.

    Attributes:
        field: path of the field in the request, ``slots[0].alpha``; empty for a rule of the whole.
        description: what the rule says, without the value that broke it.
        rule: the rule's id, ``float.lte``; empty where no rule of the contract says it.
    """

    field: str
    description: str
    rule: str = ""


class LeylineError(Exception):
    """A request cannot be served, for a reason that the catalogue has and the client may know.

    Attributes:
        code: which reason.
        facts: the values of the message's names and any others; public, and short.
        violations: the fields to blame.
        retry_after_s: seconds after which to try again; None: not at all.
    """

    def __init__(
        self,
        code: ErrorCode,
        *,
        violations: Sequence[Violation] = (),
        retry_after_s: float | None = None,
        **facts: object,
    ) -> None:
        """Make the error; ``retry_after_s`` overrides the catalogue's.

        Raises:
            TypeError: a fact that the code's message names is missing.
        """
        missing = code.spec.facts - facts.keys()
        if missing:
            raise TypeError(f"{code.name} needs the facts {sorted(missing)}")
        self.code = code
        self.facts = facts
        self.violations = tuple(violations)
        self.retry_after_s = code.spec.retry_after_s if retry_after_s is None else retry_after_s
        super().__init__(code.spec.message.format_map(facts))
