"""PolicyRegistryService: between the wire and the registry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc

from chassis.drain import Drain
from chassis.errors import ErrorCode, LeylineError, Violation
from chassis.logging import bind_call
from leyline.v1.registry_pb2 import (
    ActivatePolicyRequest,
    ActivatePolicyResponse,
    ArtifactChunk,
    CollectGarbageRequest,
    CollectGarbageResponse,
    DownloadPolicyRequest,
    DownloadPolicyResponse,
    GetPolicyRequest,
    GetPolicyResponse,
    ListPoliciesRequest,
    ListPoliciesResponse,
    RegisterPolicyRequest,
    RegisterPolicyResponse,
    ReportPolicyRequest,
    ReportPolicyResponse,
    RollBackPolicyRequest,
    RollBackPolicyResponse,
    WatchPoliciesRequest,
    WatchPoliciesResponse,
)
from leyline.v1.registry_pb2_grpc import PolicyRegistryServiceServicer
from simic.bell import Bell
from simic.policies.registry import ArtifactUpload, PolicyRegistry
from simic.tail import follow

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class RegistryServicer(PolicyRegistryServiceServicer):
    """Serves one registry."""

    def __init__(self, registry: PolicyRegistry, poll_s: float, drain: Drain) -> None:
        """Serve ``registry``; watchers look at it every ``poll_s`` seconds at least."""
        self._registry = registry
        self._poll_s = poll_s
        self._drain = drain
        self._bell = Bell()

    async def RegisterPolicy(
        self, request_iterator: AsyncIterator[RegisterPolicyRequest], context: Context
    ) -> RegisterPolicyResponse:
        """Receive a manifest and its artifact, and register them."""
        upload: ArtifactUpload | None = None
        async for request in request_iterator:
            if upload is None and request.HasField("manifest"):
                upload = ArtifactUpload(request.manifest)
                bind_call(policy_version=request.manifest.policy_version)
            elif upload is not None and request.HasField("chunk"):
                upload.append(request.chunk)
            else:
                raise _out_of_order()
        if upload is None:
            raise _out_of_order()
        artifact = upload.finish()
        response = await asyncio.to_thread(self._registry.register, upload.manifest, artifact)
        self._bell.ring()
        return response

    async def ListPolicies(
        self, request: ListPoliciesRequest, context: Context
    ) -> ListPoliciesResponse:
        """List versions, newest first."""
        return await asyncio.to_thread(self._registry.page, request.page_size, request.page_token)

    async def GetPolicy(self, request: GetPolicyRequest, context: Context) -> GetPolicyResponse:
        """Show a version."""
        return await asyncio.to_thread(self._registry.get, request.policy_version)

    async def DownloadPolicy(
        self, request: DownloadPolicyRequest, context: Context
    ) -> AsyncIterator[DownloadPolicyResponse]:
        """Stream an artifact from an offset on."""
        offset = request.offset
        while True:
            piece = await asyncio.to_thread(
                self._registry.read_artifact, request.policy_version, offset
            )
            if not piece.data:
                return
            yield DownloadPolicyResponse(chunk=ArtifactChunk(offset=offset, data=piece.data))
            offset += len(piece.data)
            if offset >= piece.total_size:
                return

    async def WatchPolicies(
        self, request: WatchPoliciesRequest, context: Context
    ) -> AsyncIterator[WatchPoliciesResponse]:
        """Stream events, until the client or the server ends."""
        async for event in follow(
            self._registry.events, request.after_sequence, self._bell, self._poll_s, self._drain
        ):
            yield event

    async def ActivatePolicy(
        self, request: ActivatePolicyRequest, context: Context
    ) -> ActivatePolicyResponse:
        """Promote a version."""
        bind_call(policy_version=request.policy_version)
        response = await asyncio.to_thread(
            self._registry.activate, request.policy_version, request.reason, force=request.force
        )
        self._bell.ring()
        return response

    async def RollBackPolicy(
        self, request: RollBackPolicyRequest, context: Context
    ) -> RollBackPolicyResponse:
        """Go back to the version before."""
        response = await asyncio.to_thread(self._registry.roll_back, request.reason)
        self._bell.ring()
        return response

    async def CollectGarbage(
        self, request: CollectGarbageRequest, context: Context
    ) -> CollectGarbageResponse:
        """Delete artifacts that nothing needs."""
        return await asyncio.to_thread(
            self._registry.collect_garbage, request.keep_newest, dry_run=request.dry_run
        )

    async def ReportPolicy(
        self, request: ReportPolicyRequest, context: Context
    ) -> ReportPolicyResponse:
        """Keep what a policy server says of a version."""
        bind_call(policy_version=request.report.policy_version)
        await asyncio.to_thread(self._registry.report, request.report)
        self._bell.ring()
        return ReportPolicyResponse()


def _out_of_order() -> LeylineError:
    violation = Violation("message", "the manifest comes first and once, the pieces after it")
    return LeylineError(ErrorCode.INVALID_ARGUMENT, violations=[violation])
