"""Who decides."""

from __future__ import annotations

import grpc

from leyline.client.connection import CALL_TIMEOUT_S, Client
from leyline.v1.policy_pb2 import GetPolicyInfoRequest, GetPolicyInfoResponse
from leyline.v1.policy_pb2_grpc import PolicyServiceStub


class PolicyServer(Client):
    """Tamiyo, or any other policy."""

    def _open(self, channel: grpc.aio.Channel) -> None:
        self._stub = PolicyServiceStub(channel)

    async def info(self) -> GetPolicyInfoResponse:
        """Say who decides."""
        request = GetPolicyInfoRequest()
        return await self._call(self._stub.GetPolicyInfo(request, timeout=CALL_TIMEOUT_S))
