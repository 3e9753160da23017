"""The policy registry: versions, named by what they compute, and what happened to them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, insert, select

from chassis.errors import ErrorCode, LeylineError, Violation
from leyline.v1.registry_pb2 import (
    ActivatePolicyResponse,
    ArtifactChunk,
    GetPolicyResponse,
    ListPoliciesResponse,
    PolicyActivated,
    PolicyManifest,
    PolicyRegistered,
    PolicyReport,
    RegisterPolicyResponse,
    WatchPoliciesResponse,
)
from simic.database import moment
from simic.database.database import Database
from simic.database.schema import artifacts, policies, policy_events
from simic.policies.artifact import NETWORKS, check_manifest

CHUNK_BYTES = 256 * 1024
"""Size of a piece of an artifact: well below the 4 MiB that a gRPC message may have."""

DEFAULT_PAGE = 50
REPORTS_SHOWN = 100

REGISTERED = "registered"
ACTIVATED = "activated"
REPORTED = "reported"
_LONGER_THAN_ANY = 2**30  # bytes; the contract allows 64 MiB
_PIN_CANDIDATES = 100  # activations to look back over for one that is served


@dataclass(frozen=True)
class ArtifactPiece:
    """Bytes of an artifact, and the size of the whole."""

    data: bytes
    total_size: int


class PolicyRegistry:
    """Versions and events. Every method blocks on the disk: call it from a thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def register(self, manifest: PolicyManifest, artifact: bytes) -> RegisterPolicyResponse:
        """Register a version, or find the one that computes the same.

        Raises:
            LeylineError: ARTIFACT_DIGEST_MISMATCH, ARTIFACT_CORRUPT, FINGERPRINT_MISMATCH, or
                INVALID_ARGUMENT where the manifest does not say what the artifact is.
        """
        check_manifest(manifest, artifact)
        with self._database.write() as connection:
            return register(connection, manifest, artifact)

    def activate(self, policy_version: str, reason: str) -> ActivatePolicyResponse:
        """Make a version the active one. Activating the active one again changes nothing.

        Raises:
            LeylineError: POLICY_VERSION_NOT_FOUND.
        """
        with self._database.write() as connection:
            _require(connection, policy_version)
            return ActivatePolicyResponse(
                previous_version=activate(connection, policy_version, reason) or ""
            )

    def report(self, report: PolicyReport) -> None:
        """Keep what a policy server says about a version.

        Raises:
            LeylineError: POLICY_VERSION_NOT_FOUND.
        """
        with self._database.write() as connection:
            _require(connection, report.policy_version)
            event = WatchPoliciesResponse(reported=report)
            _append_event(connection, REPORTED, report.policy_version, event)

    def get(self, policy_version: str) -> GetPolicyResponse:
        """A version, or the active one where ``policy_version`` is empty.

        Raises:
            LeylineError: POLICY_VERSION_NOT_FOUND.
        """
        with self._database.read() as connection:
            active = active_version(connection)
            manifest = _require(connection, policy_version or active or "")
            payloads = connection.execute(
                select(policy_events.c.payload)
                .where(
                    policy_events.c.kind == REPORTED,
                    policy_events.c.policy_version == manifest.policy_version,
                )
                .order_by(policy_events.c.sequence.desc())
                .limit(REPORTS_SHOWN)
            ).scalars()
            reports = [WatchPoliciesResponse.FromString(payload).reported for payload in payloads]
        return GetPolicyResponse(
            manifest=manifest, active=manifest.policy_version == active, reports=reversed(reports)
        )

    def page(self, page_size: int, page_token: str) -> ListPoliciesResponse:
        """A page of versions, newest first.

        Raises:
            LeylineError: INVALID_ARGUMENT for a token that no page gave.
        """
        limit = page_size or DEFAULT_PAGE
        query = select(policies).order_by(policies.c.ordinal.desc()).limit(limit + 1)
        if page_token:
            query = query.where(policies.c.ordinal < _ordinal_of(page_token))
        with self._database.read() as connection:
            rows = connection.execute(query).all()
            active = active_version(connection)
        return ListPoliciesResponse(
            policies=[PolicyManifest.FromString(row.manifest) for row in rows[:limit]],
            next_page_token=str(rows[limit - 1].ordinal) if len(rows) > limit else "",
            active_version=active or "",
        )

    def read_artifact(self, policy_version: str, offset: int) -> ArtifactPiece:
        """The next piece of an artifact; empty at its end.

        Raises:
            LeylineError: POLICY_VERSION_NOT_FOUND, or INVALID_ARGUMENT for an offset too great.
        """
        # PostgreSQL counts bytes in 32 bits; no artifact is as long as that.
        first = min(offset, _LONGER_THAN_ANY) + 1
        with self._database.read() as connection:
            row = connection.execute(
                select(
                    artifacts.c.size,
                    func.substr(artifacts.c.data, first, CHUNK_BYTES).label("piece"),
                )
                .join(policies, policies.c.artifact_sha256 == artifacts.c.sha256)
                .where(policies.c.policy_version == policy_version)
            ).one_or_none()
        if row is None:
            raise _not_found(policy_version)
        if offset > row.size:
            described = f"the artifact has {row.size} bytes"
            raise LeylineError(
                ErrorCode.INVALID_ARGUMENT, violations=[Violation("offset", described)]
            )
        return ArtifactPiece(bytes(row.piece), row.size)

    def events(self, after: int, limit: int = 256) -> Sequence[WatchPoliciesResponse]:
        """What happened after event number ``after``, in order; at most ``limit`` events."""
        query = (
            select(policy_events, policies.c.manifest)
            .join(policies, policies.c.policy_version == policy_events.c.policy_version)
            .where(policy_events.c.sequence > after)
            .order_by(policy_events.c.sequence)
            .limit(limit)
        )
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        events = []
        for row in rows:
            event = WatchPoliciesResponse.FromString(row.payload)
            event.sequence = row.sequence
            event.time.CopyFrom(moment.to_proto(row.time))
            if row.kind == REGISTERED:
                event.registered.manifest.ParseFromString(row.manifest)
            events.append(event)
        return events


def active_version(connection: Connection) -> str | None:
    """The active version, or None before the first activation."""
    return connection.execute(
        select(policy_events.c.policy_version)
        .where(policy_events.c.kind == ACTIVATED)
        .order_by(policy_events.c.sequence.desc())
        .limit(1)
    ).scalar_one_or_none()


def version_to_pin(connection: Connection) -> str | None:
    """The newest activated version that no policy server has refused; the active one where all have
    been. None before the first activation.

    A server that refuses a version serves the one before, and so do the episodes that begin then:
    pinned to the refused one, they would be decided by nobody.
    """
    activated = connection.execute(
        select(policy_events.c.policy_version)
        .where(policy_events.c.kind == ACTIVATED)
        .order_by(policy_events.c.sequence.desc())
        .limit(_PIN_CANDIDATES)
    ).scalars()
    versions = list(dict.fromkeys(activated))
    served = (version for version in versions if not _is_refused(connection, version))
    return next(served, versions[0] if versions else None)


def _is_refused(connection: Connection, policy_version: str) -> bool:
    """Whether the newest report about a version says so."""
    payload = connection.execute(
        select(policy_events.c.payload)
        .where(policy_events.c.kind == REPORTED, policy_events.c.policy_version == policy_version)
        .order_by(policy_events.c.sequence.desc())
        .limit(1)
    ).scalar_one_or_none()
    return payload is not None and not WatchPoliciesResponse.FromString(payload).reported.accepted


def register(
    connection: Connection, manifest: PolicyManifest, artifact: bytes
) -> RegisterPolicyResponse:
    """Register a checked version within the caller's transaction.

    Raises:
        LeylineError: INVALID_ARGUMENT where the name is another version's.
    """
    known = _find(connection, manifest.policy_version)
    if known is not None:
        _refuse_another_artifact(known, manifest)
        return RegisterPolicyResponse(manifest=known, already_registered=True)
    sha256 = hashlib.sha256(artifact).hexdigest()
    stored = select(artifacts.c.sha256).where(artifacts.c.sha256 == sha256)
    if connection.execute(stored).one_or_none() is None:
        values = {"sha256": sha256, "size": len(artifact), "data": artifact}
        connection.execute(insert(artifacts).values(values))
    registered = PolicyManifest()
    registered.CopyFrom(manifest)
    registered.registered_at.CopyFrom(moment.to_proto(moment.now()))
    newest = connection.execute(select(func.max(policies.c.ordinal))).scalar_one()
    registered.ordinal = (newest or 0) + 1
    connection.execute(
        insert(policies).values(
            ordinal=registered.ordinal,
            policy_version=registered.policy_version,
            artifact_sha256=sha256,
            manifest=registered.SerializeToString(deterministic=True),
        )
    )
    event = WatchPoliciesResponse(registered=PolicyRegistered())
    _append_event(connection, REGISTERED, registered.policy_version, event)
    return RegisterPolicyResponse(manifest=registered)


def _refuse_another_artifact(known: PolicyManifest, given: PolicyManifest) -> None:
    # Of a network of ours the name tells what is computed, whatever else stands in the file.
    names_compute = known.network == given.network and known.network in NETWORKS
    if not names_compute and known.artifact_sha256 != given.artifact_sha256:
        violation = Violation("manifest.policy_version", "is the name of another artifact")
        raise LeylineError(ErrorCode.INVALID_ARGUMENT, violations=[violation])


def activate(connection: Connection, policy_version: str, reason: str) -> str | None:
    """Activate a registered version within the caller's transaction; the one active before."""
    previous = active_version(connection)
    if previous != policy_version:
        activated = PolicyActivated(
            policy_version=policy_version, previous_version=previous or "", reason=reason
        )
        event = WatchPoliciesResponse(activated=activated)
        _append_event(connection, ACTIVATED, policy_version, event)
    return previous


def load(connection: Connection, policy_version: str) -> tuple[PolicyManifest, bytes]:
    """A version's manifest and its artifact, whole.

    Raises:
        LeylineError: POLICY_VERSION_NOT_FOUND.
    """
    manifest = _require(connection, policy_version)
    data: bytes = connection.execute(
        select(artifacts.c.data).where(artifacts.c.sha256 == manifest.artifact_sha256)
    ).scalar_one()
    return manifest, data


def _find(connection: Connection, policy_version: str) -> PolicyManifest | None:
    manifest = connection.execute(
        select(policies.c.manifest).where(policies.c.policy_version == policy_version)
    ).scalar_one_or_none()
    return None if manifest is None else PolicyManifest.FromString(manifest)


def _require(connection: Connection, policy_version: str) -> PolicyManifest:
    manifest = _find(connection, policy_version)
    if manifest is None:
        raise _not_found(policy_version)
    return manifest


def _append_event(
    connection: Connection, kind: str, policy_version: str, event: WatchPoliciesResponse
) -> None:
    connection.execute(
        insert(policy_events).values(
            time=moment.now(),
            kind=kind,
            policy_version=policy_version,
            payload=event.SerializeToString(deterministic=True),
        )
    )


def _not_found(policy_version: str) -> LeylineError:
    return LeylineError(ErrorCode.POLICY_VERSION_NOT_FOUND, policy_version=policy_version)


def _ordinal_of(page_token: str) -> int:
    if not (page_token.isascii() and page_token.isdigit() and len(page_token) <= 18):
        raise LeylineError(
            ErrorCode.INVALID_ARGUMENT,
            violations=[Violation("page_token", "must come from the page before")],
        )
    return int(page_token)


class ArtifactUpload:
    """The pieces of an artifact, received in order."""

    def __init__(self, manifest: PolicyManifest) -> None:
        self.manifest = manifest
        self._pieces: list[bytes] = []
        self._received = 0

    def append(self, chunk: ArtifactChunk) -> None:
        """Take the next piece.

        Raises:
            LeylineError: ARTIFACT_CORRUPT for a piece out of place or behind the announced end.
        """
        if chunk.offset != self._received:
            raise self._corrupt(f"a piece at {chunk.offset} came after {self._received} bytes")
        self._pieces.append(chunk.data)
        self._received += len(chunk.data)
        if self._received > self.manifest.artifact_size:
            raise self._corrupt(
                f"it is longer than the {self.manifest.artifact_size} bytes announced"
            )

    def finish(self) -> bytes:
        """The whole artifact.

        Raises:
            LeylineError: ARTIFACT_CORRUPT where it was cut short.
        """
        if self._received != self.manifest.artifact_size:
            raise self._corrupt(
                f"{self._received} of {self.manifest.artifact_size} bytes have arrived"
            )
        return b"".join(self._pieces)

    def _corrupt(self, problem: str) -> LeylineError:
        return LeylineError(
            ErrorCode.ARTIFACT_CORRUPT,
            policy_version=self.manifest.policy_version,
            problem=problem,
        )
