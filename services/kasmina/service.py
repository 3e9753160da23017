"""Kasmina as a service: `leyline serve kasmina`, or `python -m kasmina.service`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from chassis.channel import open_channel
from chassis.logging import get_logger
from chassis.metrics import DiskMetrics
from chassis.process import ConfigurationError, ExitCode, StartupError
from chassis.process import main as run_service
from chassis.server import Server
from chassis.settings import load
from chassis.tracing import open_tracing
from kasmina.runs.database import SchemaMismatch
from kasmina.runs.disk import Disk, DiskFull
from kasmina.runs.drainer import Drainer
from kasmina.runs.experience_client import ExperienceClient
from kasmina.runs.journal import Journal
from kasmina.runs.metrics import RunMetrics
from kasmina.runs.retention import Retention
from kasmina.runs.single_run import SingleRun
from kasmina.runs.state_directory import StateDirectory, StateDirectoryBusy
from kasmina.runs.supervisor import Supervisor
from kasmina.settings import KasminaSettings
from leyline.v1.trainer_pb2_grpc import add_TrainerServiceServicer_to_server

SERVICE_NAME = "leyline.v1.TrainerService"

_DISK_POLL_S = 0.5

_EXAMPLES = """examples:
  leyline serve kasmina
  leyline serve kasmina --listen 127.0.0.1:0 --port-file kasmina.address --state-dir kasmina
  leyline serve kasmina --parallelism 4 --keep-runs 100
  leyline serve kasmina --policy default=127.0.0.1:50052 --policy mine=127.0.0.1:60000
  leyline serve kasmina --run run.yaml --id mine --set first_episode=7 --set episodes=1

Every setting is a variable, too: LEYLINE_KASMINA_LISTEN, LEYLINE_KASMINA_STATE_DIR and so on. Flags
win.
"""

_log = get_logger(__name__)


async def serve(settings: KasminaSettings, single: SingleRun | None = None) -> None:
    """Serves until it is cancelled, or until a single run is completed.

    Raises `StartupError` where it cannot begin, or the run does not come to its end.
    """
    try:
        state = StateDirectory.open(settings.state_dir)
    except OSError as error:
        raise StartupError(
            f"cannot use LEYLINE_KASMINA_STATE_DIR={settings.state_dir}: {error}"
        ) from error
    try:
        with state.service_lock():
            journal = Journal(state.journal)
            try:
                await _serve(settings, state, journal, single)
            finally:
                journal.close()
    except (StateDirectoryBusy, SchemaMismatch, DiskFull) as error:
        raise StartupError(str(error)) from error


async def _serve(
    settings: KasminaSettings, state: StateDirectory, journal: Journal, single: SingleRun | None
) -> None:
    tracing = open_tracing("kasmina", settings)
    server = Server(settings, [SERVICE_NAME], tracing)
    server.show(RunMetrics(journal))
    server.show(DiskMetrics(settings.state_dir))
    supervisor = Supervisor(settings, state, journal)
    retention = Retention(state, journal, settings.keep_runs, settings.keep_days)
    await asyncio.to_thread(retention.sweep)
    # Torch takes seconds to import, which neither --help nor an error in the settings needs.
    from kasmina.servicer import TrainerServicer

    disk = Disk(state.root, state.reserve, settings.min_free_bytes)
    servicer = TrainerServicer(settings, state, journal, disk, supervisor, server.drain)
    add_TrainerServiceServicer_to_server(servicer, server.grpc)
    experience = open_channel(settings.channel(settings.experience), tracing)
    drainer = Drainer(
        journal,
        ExperienceClient(experience),
        settings.poll_interval_s,
        is_awaited=settings.wait_for_experience,
    )
    async with server, experience, asyncio.TaskGroup() as tasks:
        background = [
            tasks.create_task(drainer.run()),
            tasks.create_task(supervisor.run()),
            tasks.create_task(retention.run()),
            tasks.create_task(_watch_disk(disk, supervisor, server)),
        ]
        try:
            if single is None:
                await server.serve()
            else:
                server.set_serving()
                await single.play(servicer.start, journal)
        finally:
            for task in background:
                task.cancel()


async def _watch_disk(disk: Disk, supervisor: Supervisor, server: Server) -> None:
    """Health says NOT_SERVING while nothing can be written, whoever notices: the service or one of
    its workers.
    """
    while True:
        reason = supervisor.disk_full
        if reason is None:
            try:
                await asyncio.to_thread(disk.require_room)
            except DiskFull as full:
                reason = str(full)
        if reason is None:
            server.set_serving()
        elif server.is_serving:
            server.set_not_serving(reason)
        await asyncio.sleep(_DISK_POLL_S)


def main(argv: Sequence[str]) -> int:
    """Runs the service with the flags in `argv`; returns the exit code."""
    parser = _parser()
    flags = vars(parser.parse_args(argv))
    file, changes, run_id = (flags.pop(name) for name in ("run", "set", "id"))
    if file is None:
        if changes or run_id is not None:
            parser.error("--set and --id are about the run of --run FILE")
        return run_service("kasmina", lambda: _settings(flags), serve)
    if run_id is None:
        parser.error("--run FILE needs --id NAME: begun again, the run goes on under its name")
    play = partial(_play, file, changes or (), run_id)
    # Whoever counts on the run must not take one that was stopped for one that is completed.
    return run_service("kasmina", lambda: _settings(flags), play, stopped=ExitCode.FAILED)


async def _play(file: Path, changes: Sequence[str], run_id: str, settings: KasminaSettings) -> None:
    await serve(settings, SingleRun.read(file, changes, run_id))


def _settings(flags: dict[str, Any]) -> KasminaSettings:
    endpoints = flags.pop("policy")
    return load(KasminaSettings, policies=_endpoints(endpoints), **flags)


def _endpoints(given: Sequence[str] | None) -> dict[str, str] | None:
    if given is None:
        return None
    endpoints = {}
    for text in given:
        name, separator, address = text.partition("=")
        if not separator or not name or not address:
            raise ConfigurationError(f"--policy={text}: must be NAME=ADDRESS")
        endpoints[name] = address
    return endpoints


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="leyline serve kasmina",
        description="Trains networks that grow under a policy.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--listen", metavar="HOST:PORT", help="where to listen (127.0.0.1:50051)")
    parser.add_argument(
        "--metrics-listen",
        metavar="HOST:PORT",
        help="where GET /metrics answers Prometheus; default: nowhere",
    )
    parser.add_argument(
        "--trace-endpoint",
        metavar="HOST:PORT",
        help="collector that takes traces by OTLP over gRPC; default: none",
    )
    parser.add_argument(
        "--state-dir", metavar="DIR", help="what outlives the service (.leyline/kasmina)"
    )
    parser.add_argument("--data", metavar="DIR", help="folder that holds data sets by name")
    parser.add_argument(
        "--policy",
        metavar="NAME=ADDRESS",
        action="append",
        help="a policy endpoint by the name that runs use (default=127.0.0.1:50052); repeatable",
    )
    parser.add_argument(
        "--experience", metavar="ADDRESS", help="experience service (127.0.0.1:50053)"
    )
    parser.add_argument(
        "--parallelism", type=int, metavar="N", help="runs that are trained at once (1)"
    )
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads that a worker computes with (its share of the cores)",
    )
    parser.add_argument(
        "--queue-limit", type=int, metavar="N", help="runs that may wait for a worker (1000)"
    )
    parser.add_argument(
        "--keep-runs", type=int, metavar="N", help="ended runs that are kept (the latest 1000)"
    )
    parser.add_argument(
        "--keep-days", type=float, metavar="N", help="days for which ended runs are kept (for ever)"
    )
    parser.add_argument(
        "--run",
        type=Path,
        metavar="FILE",
        help="play this run (YAML or JSON), and end once it is completed and stored as experience",
    )
    parser.add_argument("--id", metavar="NAME", help="the name of that run")
    parser.add_argument(
        "--set",
        metavar="FIELD=VALUE",
        action="append",
        help="a field of that run, in place of the file's; repeatable",
    )
    parser.add_argument("--port-file", metavar="FILE", help="file to write the bound address into")
    parser.add_argument(
        "--insecure",
        action="store_true",
        default=None,
        help="allow plain text, or calls of whoever comes, where other machines reach it",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
