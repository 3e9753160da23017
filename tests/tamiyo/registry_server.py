"""A real registry over a real socket, kept in memory, with faults that can be switched on."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from tests.tamiyo.networks import Version

from chassis.address import Address
from leyline.v1.registry_pb2 import (
    ArtifactChunk,
    DownloadPolicyRequest,
    DownloadPolicyResponse,
    GetPolicyRequest,
    GetPolicyResponse,
    PolicyActivated,
    PolicyRegistered,
    PolicyReport,
    ReportPolicyRequest,
    ReportPolicyResponse,
    WatchPoliciesRequest,
    WatchPoliciesResponse,
)
from leyline.v1.registry_pb2_grpc import (
    PolicyRegistryServiceServicer,
    add_PolicyRegistryServiceServicer_to_server,
)

Context = grpc.aio.ServicerContext[Any, Any]


class RegistryServer(PolicyRegistryServiceServicer):
    """Versions, events and reports.

    Attributes:
        reports: what was reported, in order.
        downloads: the offset of each download, by version.
        watches: the sequence after which each watch began.
        break_after: so many pieces are sent, then the connection breaks; None: it holds.
        truncate_to: only so many bytes are sent, and the stream ends as if they were all.
        corrupt: each piece's first byte is another one.
        deaf: reports are not taken.
        deleted: versions whose artifact is gone.
    """

    def __init__(self) -> None:
        # A socket in a directory of its own: unlike a port, nobody takes it while it is away.
        self._directory = tempfile.TemporaryDirectory(prefix="registry-")
        self.address = f"unix:{self._directory.name}/socket"
        self.versions: dict[str, Version] = {}
        self.active = ""
        self.events: list[WatchPoliciesResponse] = []
        self.reports: list[PolicyReport] = []
        self.downloads: dict[str, list[int]] = {}
        self.watches: list[int] = []
        self.break_after: int | None = None
        self.truncate_to: int | None = None
        self.corrupt = False
        self.deaf = False
        self.deleted: set[str] = set()
        self.chunk_size = 1024
        self._news = asyncio.Condition()
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> RegistryServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        self._directory.cleanup()

    @property
    def parsed_address(self) -> Address:
        """Where it listens, as a setting."""
        return Address.parse(self.address)

    async def start(self) -> None:
        """Listen; after ``stop`` again at the same address."""
        self._server = grpc.aio.server()
        add_PolicyRegistryServiceServicer_to_server(self, self._server)
        self._server.add_insecure_port(self.address)
        await self._server.start()

    async def stop(self) -> None:
        """Be away."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def register(self, version: Version) -> None:
        """Register a version."""
        self.versions[version.name] = version
        await self._tell(registered=PolicyRegistered(manifest=version.manifest))

    async def activate(self, version: Version) -> None:
        """Register a version where need be, and make it the active one."""
        if version.name not in self.versions:
            await self.register(version)
        previous, self.active = self.active, version.name
        await self._tell(
            activated=PolicyActivated(policy_version=version.name, previous_version=previous)
        )

    async def _tell(self, **event: Any) -> None:
        async with self._news:
            self.events.append(WatchPoliciesResponse(sequence=len(self.events) + 1, **event))
            self._news.notify_all()

    async def next_report(self, version: Version) -> PolicyReport:
        """Wait for a report about a version."""
        async with self._news:
            await self._news.wait_for(
                lambda: any(r.policy_version == version.name for r in self.reports)
            )
        return [r for r in self.reports if r.policy_version == version.name][-1]

    async def GetPolicy(self, request: GetPolicyRequest, context: Context) -> GetPolicyResponse:
        name = request.policy_version or self.active
        if name not in self.versions:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no version {name!r}")
        return GetPolicyResponse(manifest=self.versions[name].manifest, active=name == self.active)

    async def DownloadPolicy(
        self, request: DownloadPolicyRequest, context: Context
    ) -> AsyncIterator[DownloadPolicyResponse]:
        name = request.policy_version
        self.downloads.setdefault(name, []).append(request.offset)
        if name in self.deleted:
            await context.abort(grpc.StatusCode.NOT_FOUND, "its artifact was deleted")
        data = self.versions[name].data[: self.truncate_to]
        offsets = range(request.offset, len(data), self.chunk_size)
        for count, offset in enumerate(offsets):
            if count == self.break_after:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
            piece = data[offset : offset + self.chunk_size]
            if self.corrupt:
                piece = bytes([piece[0] ^ 0xFF]) + piece[1:]
            yield DownloadPolicyResponse(chunk=ArtifactChunk(offset=offset, data=piece))

    async def WatchPolicies(
        self, request: WatchPoliciesRequest, context: Context
    ) -> AsyncIterator[WatchPoliciesResponse]:
        self.watches.append(request.after_sequence)
        sequence = request.after_sequence
        while True:
            async with self._news:
                while len(self.events) <= sequence:
                    await self._news.wait()
                news = self.events[sequence:]
            for event in news:
                yield event
            sequence += len(news)

    async def ReportPolicy(
        self, request: ReportPolicyRequest, context: Context
    ) -> ReportPolicyResponse:
        if self.deaf:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "nobody listens")
        async with self._news:
            self.reports.append(request.report)
            self._news.notify_all()
        return ReportPolicyResponse()
