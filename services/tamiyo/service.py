"""Tamiyo as a process: ``leyline serve tamiyo``."""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from chassis import process
from chassis.channel import open_channel
from chassis.process import StartupError
from chassis.server import Server
from chassis.settings import load
from leyline.observation import spec_by_name
from leyline.v1.policy_pb2_grpc import add_PolicyServiceServicer_to_server
from tamiyo.batch import DecisionBatcher
from tamiyo.cache import ArtifactCache
from tamiyo.policies import BUILT_IN
from tamiyo.registry import Registry
from tamiyo.servicer import SERVICE, PolicyServicer
from tamiyo.settings import TamiyoSettings
from tamiyo.versions import BuiltInVersions, LearnedVersions

_EXAMPLES = """\
examples:
  leyline serve tamiyo
      serves what the registry on 127.0.0.1:50053 says is active, and follows it
  leyline serve tamiyo --policy heuristic
      serves the hand-written rules; needs no registry
  leyline serve tamiyo --policy random --listen 127.0.0.1:0 --port-file /tmp/tamiyo.address
      lets the kernel choose a port, and writes it down
  leyline serve tamiyo --registry simic:50053 --listen 0.0.0.0:50052 --insecure
      takes plain text from other machines, as inside a container

Each flag is also an environment variable: --state-dir is LEYLINE_TAMIYO_STATE_DIR.
"""


async def serve(settings: TamiyoSettings) -> None:
    """Serve a policy until the task is cancelled; then drain.

    Raises:
        StartupError: the address or the state directory cannot be used.
    """
    if settings.policy == "learned":
        async with _learned(settings) as versions:
            await _serve(settings, versions)
    else:
        policy = BUILT_IN[settings.policy](spec_by_name(settings.spec))
        await _serve(settings, BuiltInVersions(policy))


async def _serve(settings: TamiyoSettings, versions: BuiltInVersions | LearnedVersions) -> None:
    server = Server(settings, [SERVICE])
    # The batches outlive the server, so that draining calls still get their answers.
    async with DecisionBatcher(settings.queue_size) as batcher:
        servicer = PolicyServicer(settings.policy, spec_by_name(settings.spec), versions, batcher)
        add_PolicyServiceServicer_to_server(servicer, server.grpc)
        async with server:
            if isinstance(versions, LearnedVersions):
                server.set_not_serving("no version of the policy has been loaded yet")
                await versions.ready.wait()
            await server.serve()


@asynccontextmanager
async def _learned(settings: TamiyoSettings) -> AsyncIterator[LearnedVersions]:
    """Follow the registry for as long as the block lasts."""
    try:
        cache = ArtifactCache(settings.state_dir, settings.cached_versions)
    except OSError as error:
        raise StartupError(
            f"the state directory {settings.state_dir} cannot be used: {error.strerror}; "
            "set LEYLINE_TAMIYO_STATE_DIR or --state-dir to one that can be written"
        ) from error
    async with open_channel(settings.channel(str(settings.registry))) as channel:
        versions = LearnedVersions(
            Registry(channel),
            cache,
            limit=settings.cached_versions,
            server=f"tamiyo on {socket.gethostname()}, {settings.listen}",
        )
        await versions.restore()
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(versions.follow())
            yield versions
            following.cancel()


def main(argv: Sequence[str]) -> int:
    """Run ``leyline serve tamiyo`` with its arguments; returns the exit code."""
    flags = vars(_parser().parse_args(argv))
    return process.main("tamiyo", lambda: load(TamiyoSettings, **flags), serve)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="leyline serve tamiyo",
        description="Serve a policy: when and where a network grows.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--policy", metavar="NAME", help="wait, random, heuristic, or learned (default)"
    )
    parser.add_argument("--listen", metavar="HOST:PORT", help="default 127.0.0.1:50052")
    parser.add_argument(
        "--registry", metavar="HOST:PORT", help="where learned versions are (127.0.0.1:50053)"
    )
    parser.add_argument(
        "--state-dir", type=Path, metavar="DIR", help="keeps versions (.leyline/tamiyo)"
    )
    parser.add_argument(
        "--spec", metavar="NAME", help="observation spec of built-in policies: seed or extended"
    )
    parser.add_argument(
        "--insecure",
        action="store_const",
        const=True,
        help="allow plain text on an address that other machines reach",
    )
    parser.add_argument("--port-file", type=Path, metavar="FILE", help="write the address there")
    parser.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning, or error")
    return parser


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
