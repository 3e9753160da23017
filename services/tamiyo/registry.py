"""The policy registry, as a policy server sees it: it may be away, and streams may break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio

from leyline.v1.registry_pb2 import (
    DownloadPolicyRequest,
    DownloadPolicyResponse,
    GetPolicyRequest,
    PolicyManifest,
    PolicyReport,
    ReportPolicyRequest,
    WatchPoliciesRequest,
)
from leyline.v1.registry_pb2_grpc import PolicyRegistryServiceStub
from tamiyo.artifact import ArtifactRefused, Refusal


class RegistryAway(Exception):
    """The registry could not be asked; it may be there again later."""


class _Deleted(Exception):
    """A version's bytes are not there any more."""


class Registry:
    """Calls to the registry, and what to do when they break."""

    _CALL_TIMEOUT_S = 5.0
    _CHUNK_TIMEOUT_S = 10.0
    _BARREN_ATTEMPTS = 4
    _FIRST_PAUSE_S = 0.05

    def __init__(self, channel: grpc.aio.Channel) -> None:
        """Ask the registry behind a channel."""
        self._stub = PolicyRegistryServiceStub(channel)
        self._sequence = 0

    async def active(self) -> PolicyManifest | None:
        """Return the active version's manifest, or None where nothing is active yet.

        Raises:
            RegistryAway: it could not be asked.
        """
        return await self._manifest("")

    async def manifest(self, version: str) -> PolicyManifest | None:
        """Return a version's manifest, or None where there is no such version.

        Raises:
            RegistryAway: it could not be asked.
            ArtifactRefused: MANIFEST_INVALID, for the manifest of another version.
        """
        manifest = await self._manifest(version)
        if manifest is not None and manifest.policy_version != version:
            raise ArtifactRefused(
                version,
                Refusal.MANIFEST_INVALID,
                f"the registry sent the manifest of {manifest.policy_version!r}",
            )
        return manifest

    async def _manifest(self, version: str) -> PolicyManifest | None:
        try:
            response = await self._stub.GetPolicy(
                GetPolicyRequest(policy_version=version), timeout=self._CALL_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                return None
            raise _away(error) from error
        return response.manifest if response.manifest.policy_version else None

    async def download(self, manifest: PolicyManifest) -> bytes | None:
        """Return a version's bytes, or None where the registry has deleted them.

        A broken connection goes on from where it broke.

        Raises:
            RegistryAway: it broke several times in a row without a single byte.
            ArtifactRefused: ARTIFACT_CORRUPT, for pieces that do not make a whole.
        """
        data = bytearray()
        barren = 0
        while len(data) < manifest.artifact_size:
            before = len(data)
            try:
                problem = await self._download_more(manifest, data)
            except _Deleted:
                return None
            if len(data) > before:
                barren = 0
                continue
            barren += 1
            if barren == self._BARREN_ATTEMPTS:
                if problem is not None:
                    raise problem
                # The registry ends the stream and says that this is all.
                break
            await asyncio.sleep(self._FIRST_PAUSE_S * 2**barren)
        return bytes(data)

    async def _download_more(
        self, manifest: PolicyManifest, data: bytearray
    ) -> RegistryAway | None:
        """Append what one call gives; return what broke it, None where it ended by itself."""
        version = manifest.policy_version
        call = self._stub.DownloadPolicy(
            DownloadPolicyRequest(policy_version=version, offset=len(data))
        )
        try:
            while True:
                async with asyncio.timeout(self._CHUNK_TIMEOUT_S):
                    piece = await call.read()
                if not isinstance(piece, DownloadPolicyResponse):
                    return None
                if piece.chunk.offset != len(data):
                    raise ArtifactRefused(
                        version,
                        Refusal.ARTIFACT_CORRUPT,
                        f"the registry sent offset {piece.chunk.offset}, not {len(data)}",
                    )
                data += piece.chunk.data
                if len(data) > manifest.artifact_size:
                    raise ArtifactRefused(
                        version,
                        Refusal.ARTIFACT_CORRUPT,
                        f"the registry sent more than its {manifest.artifact_size} bytes",
                    )
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                raise _Deleted from error
            return _away(error)
        except TimeoutError:
            return RegistryAway(f"no piece came within {self._CHUNK_TIMEOUT_S:g} s")
        finally:
            call.cancel()

    async def activations(self) -> AsyncIterator[str]:
        """Yield each version that is activated, from after the last one that was seen on.

        The first time that is every activation there was. Does not end by itself.

        Raises:
            RegistryAway: the connection broke; call again to go on.
        """
        request = WatchPoliciesRequest(after_sequence=self._sequence)
        try:
            async for event in self._stub.WatchPolicies(request):
                self._sequence = event.sequence
                if event.WhichOneof("event") == "activated":
                    yield event.activated.policy_version
        except grpc.aio.AioRpcError as error:
            raise _away(error) from error
        raise RegistryAway("the registry ended the watch")

    async def report(self, report: PolicyReport) -> None:
        """Say that a version is served, or why not.

        Raises:
            RegistryAway: it could not be told.
        """
        try:
            await self._stub.ReportPolicy(
                ReportPolicyRequest(report=report), timeout=self._CALL_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as error:
            raise _away(error) from error


def _away(error: grpc.aio.AioRpcError) -> RegistryAway:
    return RegistryAway(f"{error.code().name}: {error.details()}")
