"""The policy registry: versions, named by what they compute, and what happened to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection, func, insert, select

from chassis.errors import ErrorCode, LeylineError, Violation
from leyline.v1.registry_pb2 import (
    ActivatePolicyResponse,
    ArtifactChunk,
    CollectGarbageResponse,
    GetPolicyResponse,
    ListPoliciesResponse,
    PolicyManifest,
    PolicyRegistered,
    PolicyReport,
    RegisterPolicyResponse,
    RollBackPolicyResponse,
    WatchPoliciesResponse,
)
from simic.database import moment
from simic.database.database import Database
from simic.database.paging import row_number
from simic.database.schema import artifacts, policies, policy_events
from simic.policies import events
from simic.policies.activation import activate, active_version, roll_back
from simic.policies.artifact import NETWORKS, check_manifest
from simic.policies.fitting import what_does_not_fit
from simic.policies.garbage import collect

CHUNK_BYTES = 256 * 1024
"""Size of a piece of an artifact: well below the 4 MiB that a gRPC message may have."""

DEFAULT_PAGE = 50
LARGEST_PAGE = 200
"""A manifest has golden outputs, some 13 kB: more would not fit into a message."""
EVENTS_SHOWN = 100
_LONGER_THAN_ANY = 2**30  # bytes; the contract allows 64 MiB


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

    def activate(
        self, policy_version: str, reason: str, *, force: bool = False
    ) -> ActivatePolicyResponse:
        """Make a version the active one. Activating the active one again changes nothing.

        Raises:
            LeylineError: POLICY_VERSION_NOT_FOUND, also where the artifact is gone;
                VERSION_DOES_NOT_FIT where it does not decide for episodes that are being played,
                unless it is forced.
        """
        with self._database.write() as connection:
            manifest = _require(connection, policy_version)
            if not _has_artifact(connection, manifest):
                raise _collected(policy_version)
            problem = "" if force else what_does_not_fit(connection, manifest)
            if problem:
                raise LeylineError(
                    ErrorCode.VERSION_DOES_NOT_FIT, policy_version=policy_version, problem=problem
                )
            previous = activate(connection, policy_version, reason)
            return ActivatePolicyResponse(previous_version=previous or "")

    def roll_back(self, reason: str) -> RollBackPolicyResponse:
        """Make the version active that was so before the active one; see
        ``simic.policies.activation``.

        Raises:
            LeylineError: NOTHING_TO_ROLL_BACK.
        """
        with self._database.write() as connection:
            return roll_back(connection, reason)

    def collect_garbage(self, keep_newest: int, *, dry_run: bool) -> CollectGarbageResponse:
        """Delete the artifacts that nothing needs; see ``simic.policies.garbage``.

        Args:
            keep_newest: so many of the newest versions stay; 0: 20.
            dry_run: only say which would be deleted.
        """
        with self._database.write() as connection:
            return collect(connection, keep_newest, dry_run=dry_run)

    def report(self, report: PolicyReport) -> None:
        """Keep what a policy server says about a version.

        Raises:
            LeylineError: POLICY_VERSION_NOT_FOUND.
        """
        with self._database.write() as connection:
            _require(connection, report.policy_version)
            event = WatchPoliciesResponse(reported=report)
            events.append(connection, events.REPORTED, report.policy_version, event)

    def get(self, policy_version: str) -> GetPolicyResponse:
        """A version, or the active one where ``policy_version`` is empty.

        Raises:
            LeylineError: POLICY_VERSION_NOT_FOUND.
        """
        with self._database.read() as connection:
            active = active_version(connection)
            manifest = _require(connection, policy_version or active or "")
            about = partial(
                events.newest,
                connection,
                policy_version=manifest.policy_version,
                limit=EVENTS_SHOWN,
            )
            reports, evaluations = about(events.REPORTED), about(events.EVALUATED)
        return GetPolicyResponse(
            manifest=manifest,
            active=manifest.policy_version == active,
            reports=[event.reported for event in reports],
            evaluations=[event.evaluated for event in evaluations],
        )

    def page(self, page_size: int, page_token: str) -> ListPoliciesResponse:
        """A page of versions, newest first.

        Raises:
            LeylineError: INVALID_ARGUMENT for a token that no page gave.
        """
        limit = min(page_size or DEFAULT_PAGE, LARGEST_PAGE)
        query = select(policies).order_by(policies.c.ordinal.desc()).limit(limit + 1)
        if page_token:
            query = query.where(policies.c.ordinal < row_number(page_token))
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
            LeylineError: POLICY_VERSION_NOT_FOUND, also where the artifact is gone, or
                INVALID_ARGUMENT for an offset too great.
        """
        # PostgreSQL counts bytes in 32 bits; no artifact is as long as that.
        first = min(offset, _LONGER_THAN_ANY) + 1
        with self._database.read() as connection:
            _require(connection, policy_version)
            row = connection.execute(
                select(
                    artifacts.c.size,
                    func.substr(artifacts.c.data, first, CHUNK_BYTES).label("piece"),
                )
                .join(policies, policies.c.artifact_sha256 == artifacts.c.sha256)
                .where(policies.c.policy_version == policy_version)
            ).one_or_none()
        if row is None:
            raise _collected(policy_version)
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
        happened = []
        for row in rows:
            event = WatchPoliciesResponse.FromString(row.payload)
            event.sequence = row.sequence
            event.time.CopyFrom(moment.to_proto(row.time))
            if row.kind == events.REGISTERED:
                event.registered.manifest.ParseFromString(row.manifest)
            happened.append(event)
        return happened


def register(
    connection: Connection, manifest: PolicyManifest, artifact: bytes
) -> RegisterPolicyResponse:
    """Register a checked version within the caller's transaction. Where it is known and its
    artifact is gone, it has one again.

    Raises:
        LeylineError: INVALID_ARGUMENT where the name is another version's;
            ARTIFACT_DIGEST_MISMATCH where other bytes than those that are gone compute the same.
    """
    known = _find(connection, manifest.policy_version)
    if known is not None:
        _refuse_another_artifact(known, manifest)
        if not _has_artifact(connection, known):
            if manifest.artifact_sha256 != known.artifact_sha256:
                raise LeylineError(
                    ErrorCode.ARTIFACT_DIGEST_MISMATCH,
                    policy_version=known.policy_version,
                    given=manifest.artifact_sha256,
                    expected=known.artifact_sha256,
                )
            _store_artifact(connection, known, artifact)
        return RegisterPolicyResponse(manifest=known, already_registered=True)
    if not _has_artifact(connection, manifest):
        _store_artifact(connection, manifest, artifact)
    registered = PolicyManifest()
    registered.CopyFrom(manifest)
    registered.registered_at.CopyFrom(moment.to_proto(moment.now()))
    newest = connection.execute(select(func.max(policies.c.ordinal))).scalar_one()
    registered.ordinal = (newest or 0) + 1
    connection.execute(
        insert(policies).values(
            ordinal=registered.ordinal,
            policy_version=registered.policy_version,
            artifact_sha256=registered.artifact_sha256,
            slots=registered.slots.exactly or None,
            spec_fingerprint=registered.observation_spec.fingerprint,
            manifest=registered.SerializeToString(deterministic=True),
        )
    )
    event = WatchPoliciesResponse(registered=PolicyRegistered())
    events.append(connection, events.REGISTERED, registered.policy_version, event)
    return RegisterPolicyResponse(manifest=registered)


def _refuse_another_artifact(known: PolicyManifest, given: PolicyManifest) -> None:
    # Of a network of ours the name tells what is computed, whatever else stands in the file.
    names_compute = known.network == given.network and known.network in NETWORKS
    if not names_compute and known.artifact_sha256 != given.artifact_sha256:
        violation = Violation("manifest.policy_version", "is the name of another artifact")
        raise LeylineError(ErrorCode.INVALID_ARGUMENT, violations=[violation])


def load(connection: Connection, policy_version: str) -> tuple[PolicyManifest, bytes]:
    """A version's manifest and its artifact, whole.

    Raises:
        LeylineError: POLICY_VERSION_NOT_FOUND, also where the artifact is gone.
    """
    manifest = _require(connection, policy_version)
    data: bytes | None = connection.execute(
        select(artifacts.c.data).where(artifacts.c.sha256 == manifest.artifact_sha256)
    ).scalar_one_or_none()
    if data is None:
        raise _collected(policy_version)
    return manifest, data


def _has_artifact(connection: Connection, manifest: PolicyManifest) -> bool:
    stored = select(artifacts.c.sha256).where(artifacts.c.sha256 == manifest.artifact_sha256)
    return connection.execute(stored).one_or_none() is not None


def _store_artifact(connection: Connection, manifest: PolicyManifest, artifact: bytes) -> None:
    values = {"sha256": manifest.artifact_sha256, "size": len(artifact), "data": artifact}
    connection.execute(insert(artifacts).values(values))


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


def _not_found(policy_version: str) -> LeylineError:
    return LeylineError(ErrorCode.POLICY_VERSION_NOT_FOUND, policy_version=policy_version)


def _collected(policy_version: str) -> LeylineError:
    described = "its artifact was deleted as garbage; register it again to have it back"
    return LeylineError(
        ErrorCode.POLICY_VERSION_NOT_FOUND,
        violations=[Violation("policy_version", described)],
        policy_version=policy_version,
    )


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
