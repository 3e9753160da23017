"""A service with nothing to do, as a process of its own: what the tests of a process's life start.

Usage: desk.py [MODE], where MODE is one of the functions below.
"""

from __future__ import annotations

import asyncio
import logging
import sys

from chassis.address import Address
from chassis.errors import ErrorCode, LeylineError
from chassis.logging import bind_call, get_logger
from chassis.process import StartupError, main
from chassis.server import Server
from chassis.settings import ListenAddress, ServerSettings, load, settings_config
from chassis.tracing import open_tracing


class DeskSettings(ServerSettings):
    """The least that a service has."""

    model_config = settings_config("LEYLINE_DESK_")
    listen: ListenAddress = Address.parse("127.0.0.1:0")


async def serves(settings: DeskSettings) -> None:
    tracing = open_tracing("desk", settings)
    async with Server(settings, ["leyline.v1.PolicyService"], tracing) as server:
        await server.serve()


async def loads_for_ever(settings: DeskSettings) -> None:
    async with Server(settings, ["leyline.v1.PolicyService"]):
        await asyncio.Event().wait()


async def has_background_work(settings: DeskSettings) -> None:
    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            get_logger("desk").info("work ended")

    async with asyncio.TaskGroup() as group:
        group.create_task(work())
        await serves(settings)


async def cannot_start(_settings: DeskSettings) -> None:
    raise StartupError("the store is locked by process 7; stop that one first")


async def lacks_data(_settings: DeskSettings) -> None:
    async def look() -> None:
        raise LeylineError(ErrorCode.DATASET_CORRUPT, dataset="d", file="f", problem="truncated")

    async with asyncio.TaskGroup() as group:
        group.create_task(look())


async def crashes(_settings: DeskSettings) -> None:
    raise RuntimeError("a bug")


async def logs(_settings: DeskSettings) -> None:
    bind_call(run_id="r", episode=3, policy_version="v")
    get_logger("desk").info("structured", loss=float("nan"), reward=0.5)
    logging.getLogger("library").warning("from a %s", "library")
    get_logger("desk").debug("quiet")


async def ends(_settings: DeskSettings) -> None:
    pass


if __name__ == "__main__":
    mode = globals()[sys.argv[1] if len(sys.argv) > 1 else "serves"]
    sys.exit(main("desk", lambda: load(DeskSettings), mode))
