"""A small server of the contract's own services, and channels to it, over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.chassis.asking import SCOPES, line
from tests.chassis.certificates import Certificates

from chassis.address import Address
from chassis.channel import open_channel, wait_ready
from chassis.server import Server
from chassis.settings import ListenAddress, ServerSettings, load, settings_config
from chassis.tracing import open_tracing
from leyline.v1 import experience_pb2_grpc, policy_pb2_grpc, registry_pb2_grpc

SERVICES: list[tuple[str, type, Callable[[Any, grpc.aio.Server], None]]] = [
    (
        "leyline.v1.PolicyService",
        policy_pb2_grpc.PolicyServiceServicer,
        policy_pb2_grpc.add_PolicyServiceServicer_to_server,
    ),
    (
        "leyline.v1.PolicyRegistryService",
        registry_pb2_grpc.PolicyRegistryServiceServicer,
        registry_pb2_grpc.add_PolicyRegistryServiceServicer_to_server,
    ),
    (
        "leyline.v1.ExperienceService",
        experience_pb2_grpc.ExperienceServiceServicer,
        experience_pb2_grpc.add_ExperienceServiceServicer_to_server,
    ),
]


class DeskSettings(ServerSettings):
    """Settings of the server that these tests talk to."""

    model_config = settings_config("LEYLINE_DESK_")
    listen: ListenAddress = Address.parse("127.0.0.1:0")


Start = Callable[..., Awaitable[tuple[Server, grpc.aio.Channel]]]


@pytest.fixture
def desk_settings() -> type[DeskSettings]:
    return DeskSettings


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start servers with a servicer's methods given by name, each with a connected channel."""
    async with AsyncExitStack() as stack:

        async def starter(
            methods: dict[str, Any] | None = None, **flags: Any
        ) -> tuple[Server, grpc.aio.Channel]:
            settings = load(DeskSettings, **{"drain_grace_s": 0.5, **flags})
            tracing = open_tracing("desk", settings)
            server = Server(settings, [service for service, _, _ in SERVICES], tracing)
            own = {name: staticmethod(method) for name, method in (methods or {}).items()}
            for service, base, add in SERVICES:
                add(type(service, (base,), own)(), server.grpc)
            await stack.enter_async_context(server)
            channel = open_channel(settings.channel(str(server.address)), tracing)
            stack.push_async_callback(channel.close)
            await wait_ready(channel, str(server.address), timeout_s=20)
            return server, channel

        yield starter


@pytest.fixture
def socket_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a path short enough for a Unix socket."""
    return tmp_path_factory.mktemp("s") / "s"


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """A file with a token for each scope, of the scope's name."""
    path = tmp_path / "tokens"
    path.write_text("# who may call\n" + "".join(line(f"a-{each}", each, each) for each in SCOPES))
    return path
