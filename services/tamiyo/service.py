"""Tamiyo as a process: ``leyline serve tamiyo``."""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from chassis import process
from chassis.channel import open_channel
from chassis.process import ConfigurationError, StartupError
from chassis.settings import load
from chassis.tracing import open_tracing
from leyline.document import Document, InvalidDocument
from leyline.observation import spec_by_name
from leyline.v1.trainer_pb2 import Plan
from tamiyo.cache import ArtifactCache
from tamiyo.policies import BUILT_IN
from tamiyo.policies.schedule import SchedulePolicy
from tamiyo.policy import Policy
from tamiyo.registry import Registry
from tamiyo.servicer import Introduction
from tamiyo.serving import add_server_flags, serve_versions
from tamiyo.settings import TamiyoSettings
from tamiyo.versions import BuiltInVersions, LearnedVersions, PolicyVersions

if TYPE_CHECKING:
    from chassis.spans import Tracing

_EXAMPLES = """\
examples:
  leyline serve tamiyo
      serves what the registry on 127.0.0.1:50053 says is active, and follows it
  leyline serve tamiyo --policy heuristic
      serves the hand-written rules; needs no registry
  leyline serve tamiyo --policy schedule --plan plan.yaml
      plays a fixed plan, a control: a mapping as under policy.plan in a run's file
  leyline serve tamiyo --policy random --listen 127.0.0.1:0 --port-file /tmp/tamiyo.address
      lets the kernel choose a port, and writes it down
  leyline serve tamiyo --shadow mlp-0123456789ab
      asks that version too, and logs what it would have decided
  leyline serve tamiyo --registry simic:50053 --listen 0.0.0.0:50052 --insecure
      takes plain text from other machines, as inside a container

Each flag is also an environment variable: --state-dir is LEYLINE_TAMIYO_STATE_DIR.
"""


async def serve(settings: TamiyoSettings) -> None:
    """Serve a policy until the task is cancelled; then drain.

    Raises:
        StartupError: the address or the state directory cannot be used.
    """
    introduction = Introduction(settings.policy, spec_by_name(settings.spec))
    tracing = open_tracing("tamiyo", settings)
    async with AsyncExitStack() as following:
        versions: BuiltInVersions | LearnedVersions
        if settings.policy == "learned":
            versions = await following.enter_async_context(_learned(settings, tracing))
        else:
            versions = BuiltInVersions(_built_in(settings))
        shadow = _shadow(settings, versions)
        await serve_versions(settings, introduction, versions, shadow=shadow, tracing=tracing)


def _shadow(
    settings: TamiyoSettings, versions: PolicyVersions
) -> Callable[[], Awaitable[Policy]] | None:
    """Give the policy that is only logged; a version may be there later than the server."""
    if settings.shadow is None:
        return None
    if settings.shadow not in BUILT_IN:
        return partial(versions.resolve, settings.shadow)
    built_in = BuiltInVersions(BUILT_IN[settings.shadow](spec_by_name(settings.spec)))
    return partial(built_in.resolve, None)


def _built_in(settings: TamiyoSettings) -> Policy:
    spec = spec_by_name(settings.spec)
    if settings.plan is None:
        return BUILT_IN[settings.policy](spec)
    try:
        return SchedulePolicy(spec, Document.read(settings.plan).message(Plan))
    except OSError as error:
        raise StartupError(f"the plan {settings.plan} cannot be read: {error.strerror}") from error
    except InvalidDocument as error:
        raise ConfigurationError(str(error)) from error


@asynccontextmanager
async def _learned(
    settings: TamiyoSettings, tracing: Tracing | None
) -> AsyncIterator[LearnedVersions]:
    """Follow the registry for as long as the block lasts."""
    try:
        cache = ArtifactCache(settings.state_dir, settings.cached_versions)
    except OSError as error:
        raise StartupError(
            f"the state directory {settings.state_dir} cannot be used: {error.strerror}; "
            "set LEYLINE_TAMIYO_STATE_DIR or --state-dir to one that can be written"
        ) from error
    async with open_channel(settings.channel(str(settings.registry)), tracing) as channel:
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
        "--policy", metavar="NAME", help="wait, random, heuristic, schedule, or learned (default)"
    )
    parser.add_argument("--plan", type=Path, metavar="FILE", help="what the policy schedule plays")
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
        "--shadow",
        metavar="NAME",
        help="policy or registered version that is asked the same and only logged",
    )
    add_server_flags(parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
