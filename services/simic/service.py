"""Simic as a service: its process, from the command line to the drain."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path

from chassis import process, settings
from chassis.errors import ErrorCode, LeylineError
from chassis.logging import get_logger
from chassis.metrics import DiskMetrics
from chassis.process import StartupError
from chassis.server import Server
from chassis.tracing import open_tracing
from leyline.v1.experience_pb2_grpc import add_ExperienceServiceServicer_to_server
from leyline.v1.learner_pb2_grpc import add_LearnerServiceServicer_to_server
from leyline.v1.registry_pb2_grpc import add_PolicyRegistryServiceServicer_to_server
from simic.bell import Bell
from simic.database.backup import Backups
from simic.database.database import Database, StateDirectory
from simic.database.restore import BackupFile
from simic.experience.abandonment import Abandonment
from simic.experience.ingest import Ingest
from simic.experience.integrity import Integrity
from simic.experience.metrics import IngestMetrics
from simic.experience.reading import ExperienceReader
from simic.experience.retention import Retention
from simic.experience.servicer import ExperienceServicer
from simic.experience.store import ExperienceStore
from simic.learning import needs
from simic.learning.metrics import DatabaseMetrics
from simic.learning.servicer import LearnerServicer
from simic.learning.training import TrainingStore
from simic.policies.registry import PolicyRegistry
from simic.policies.servicer import RegistryServicer
from simic.settings import SimicSettings
from simic.supervision import LearnerSupervisor

SERVICES = (
    "leyline.v1.ExperienceService",
    "leyline.v1.PolicyRegistryService",
    "leyline.v1.LearnerService",
)

EXAMPLES = """\
examples:
  leyline serve simic
  leyline serve simic --train default
  leyline serve simic --listen 127.0.0.1:0 --port-file simic.address --state-dir /var/lib/simic
  leyline serve simic --database-url 'postgresql://leyline@db.example/leyline?password_file=/run/secrets/db'
  leyline serve simic --migrate
  leyline serve simic --restore backup.sqlite3 --state-dir /var/lib/simic
  LEYLINE_SIMIC_LOG_LEVEL=debug leyline serve simic

Every flag but --migrate and --restore is also a variable: --state-dir is LEYLINE_SIMIC_STATE_DIR.
"""

RETRY_S = 1.0

_log = get_logger(__name__)


async def serve(settings: SimicSettings) -> None:
    """Serve until cancelled.

    Raises:
        StartupError: the state directory or the database cannot be used, or the address is taken.
    """
    with StateDirectory(settings.state_dir):
        database = await _open(settings)
        integrity = Integrity(database)
        try:
            await asyncio.to_thread(integrity.open)
            try:
                await _serve(settings, database, integrity)
            finally:
                await asyncio.to_thread(integrity.close)
        finally:
            database.close()


async def restore(file: Path, settings: SimicSettings) -> None:
    """Put a backup into the database, and end.

    Raises:
        StartupError: the file is no backup that this release can read, or the database cannot be
            used, or holds something already.
    """
    backup = BackupFile(file)
    with StateDirectory(settings.state_dir):
        database = await _open(settings)
        try:
            await asyncio.to_thread(backup.restore, database)
        except asyncio.CancelledError:
            backup.stop()
            raise
        finally:
            database.close()
    _log.info("restored", file=str(file), database=database.place)


async def migrate(settings: SimicSettings) -> None:
    """Bring the database to the schema of this release, and end.

    Raises:
        StartupError: the database cannot be used, or a newer release wrote it.
    """
    # A database elsewhere may be brought to it while the service before still runs.
    with nullcontext() if settings.database_url else StateDirectory(settings.state_dir):
        database = await _open(settings)
        _log.info("database is up to date", database=database.place)
        database.close()


async def _open(settings: SimicSettings) -> Database:
    """Open the database; one that is away may come back within the time of the settings."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + settings.database_wait_s
    while True:
        try:
            return await asyncio.to_thread(Database, settings.url)
        except LeylineError as error:
            reason = f"{error}: {error.__cause__}".partition("\n")[0]
            if error.code is not ErrorCode.DATABASE_UNAVAILABLE or loop.time() > deadline:
                raise StartupError(reason) from error
        _log.warning("waiting for the database", reason=reason)
        await asyncio.sleep(RETRY_S)


async def _serve(settings: SimicSettings, database: Database, integrity: Integrity) -> None:
    server = Server(settings, SERVICES, open_tracing("simic", settings))
    experience = ExperienceStore(database)
    trainings = TrainingStore(database)
    ingest = Ingest(experience, IngestMetrics(server.metrics), server.tracing)
    started = Bell()
    add_ExperienceServiceServicer_to_server(
        ExperienceServicer(
            experience,
            ExperienceReader(database),
            ingest,
            Backups(database, settings.state_dir),
            integrity,
            server.drain,
        ),
        server.grpc,
    )
    add_PolicyRegistryServiceServicer_to_server(
        RegistryServicer(PolicyRegistry(database), settings.poll_s, server.drain), server.grpc
    )
    add_LearnerServiceServicer_to_server(
        LearnerServicer(trainings, started, settings.poll_s, server.drain), server.grpc
    )
    server.show(DatabaseMetrics(trainings))
    server.show(DiskMetrics(settings.state_dir))
    supervisor = LearnerSupervisor(settings, trainings, started)
    async with AsyncExitStack() as running:
        # The writer lives through the drain, so that what a sender waits for is still acknowledged.
        await running.enter_async_context(_running(ingest.run()))
        await running.enter_async_context(server)
        await running.enter_async_context(_running(supervisor.run()))
        await running.enter_async_context(_running(integrity.run()))
        if settings.abandon_after_s:
            silence = Abandonment(database, settings.abandon_after_s)
            await running.enter_async_context(_running(silence.run()))
        if settings.keep_days or settings.keep_bytes:
            retention = Retention(
                database,
                settings.keep_days,
                settings.keep_bytes,
                [needs.of_trainings, needs.of_evaluations],
            )
            await running.enter_async_context(_running(retention.run()))
        await server.serve()


@asynccontextmanager
async def _running(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Let ``work`` run beside the block; it ends with it, and whichever fails ends both."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work)
        try:
            yield
        finally:
            task.cancel()


def main(argv: Sequence[str]) -> int:
    """Run Simic; the exit code."""
    parser = argparse.ArgumentParser(
        prog="leyline serve simic",
        description="Simic keeps every experience, and retrains the policy from it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--listen", metavar="HOST:PORT", help="default 127.0.0.1:50053")
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
        "--state-dir", type=Path, metavar="DIRECTORY", help="default .leyline/simic"
    )
    parser.add_argument(
        "--database-url",
        metavar="URL",
        help="postgresql://... or sqlite:///...; default: a SQLite file in the state directory",
    )
    parser.add_argument(
        "--keep-days",
        type=float,
        metavar="DAYS",
        help="delete the steps of episodes that ended longer ago, unless they are needed; "
        "default 0: keep them for ever",
    )
    parser.add_argument(
        "--keep-bytes",
        type=int,
        metavar="BYTES",
        help="delete the oldest steps beyond so many bytes, likewise; default 0: keep them all",
    )
    parser.add_argument(
        "--train",
        metavar="PRESET",
        help="start a training with this preset (default, demo) where none is running",
    )
    parser.add_argument(
        "--insecure",
        action="store_true",
        default=None,
        help="allow plain text, or calls of whoever comes, where other machines reach it",
    )
    parser.add_argument(
        "--port-file", type=Path, metavar="FILE", help="write the bound address here"
    )
    parser.add_argument(
        "--migrate",
        action="store_true",
        help="bring the database to the schema of this release, and end; serving does so, too",
    )
    parser.add_argument(
        "--restore",
        type=Path,
        metavar="FILE",
        help="put what `leyline experience backup` wrote into an empty database, and end",
    )
    flags = vars(parser.parse_args(argv))
    migrates, backup = flags.pop("migrate"), flags.pop("restore")
    run = migrate if migrates else serve if backup is None else partial(restore, backup)
    return process.main("simic", lambda: settings.load(SimicSettings, **flags), run)
