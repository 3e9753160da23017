"""What the services show, found out from the classes that count."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry
from tests.simic.episodes import Script, played
from tests.simic.school import School

from chassis.expiry import CertificateEnds
from chassis.metrics import CallMetrics, DiskMetrics, new_registry
from kasmina.runs.journal import Journal
from kasmina.runs.metrics import RunMetrics
from leyline.v1.decision_pb2 import ActionType, Decision
from simic.database.database import Database, sqlite_url
from simic.experience.metrics import IngestMetrics
from simic.learning.metrics import DatabaseMetrics
from simic.learning.training import TrainingStore
from tamiyo.metrics import PolicyMetrics, VersionMetrics

Labels = dict[str, set[str]]
"""Values that were seen, by label."""


@dataclass
class _Loading:
    loaded: int = 1
    refused: int = 0


def exposed(folder: Path) -> dict[str, Labels]:
    """Every name of a sample, with its labels: each service's metrics after something happened."""
    with _journal(folder) as journal, _database(folder) as database:
        found: dict[str, Labels] = defaultdict(lambda: defaultdict(set))
        for registry in (_of_calls(), _of_kasmina(journal), _of_tamiyo(), _of_simic(database)):
            for family in registry.collect():
                for sample in family.samples:
                    labels = found[sample.name]
                    for label, value in sample.labels.items():
                        labels[label].add(value)
        return found


def _of_calls() -> CollectorRegistry:
    registry = new_registry()
    calls = CallMetrics(registry)
    method = "/leyline.v1.PolicyService/GetPolicyInfo"
    labels = calls.began(method, streams_in=False, streams_out=False)
    calls.ended(labels, "OK", 0.1)
    registry.register(CertificateEnds(lambda: {"tls_certificate": 0.0}))
    registry.register(DiskMetrics(Path.cwd()))
    return registry


def _of_kasmina(journal: Journal) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(RunMetrics(journal))
    return registry


def _of_tamiyo() -> CollectorRegistry:
    registry = CollectorRegistry()
    policy = PolicyMetrics(registry)
    policy.decided(Decision(action_type=ActionType.ACTION_TYPE_WAIT), 0.1)
    policy.failed(ValueError())
    policy.answered(1)
    policy.compared(agrees=True)
    registry.register(VersionMetrics(_Loading()))
    return registry


def _of_simic(database: Database) -> CollectorRegistry:
    registry = CollectorRegistry()
    ingest = IngestMetrics(registry)
    ingest.committed(1)
    ingest.recorded(Script().items(), 0, 0.1)
    registry.register(DatabaseMetrics(TrainingStore(database)))
    return registry


@contextmanager
def _journal(folder: Path) -> Iterator[Journal]:
    journal = Journal(folder / "journal.sqlite3")
    yield journal
    journal.close()


@contextmanager
def _database(folder: Path) -> Iterator[Database]:
    """A database with a training that has made an update."""
    database = Database(sqlite_url(folder))
    school = School(database, folder)
    for index in range(4):
        school.play(played("their-policy-1", index, horizon=6, gain=lambda action, slot: 0.01))
    school.learn("t", preset="demo", experience="stored", max_updates=1)
    yield database
    database.close()
