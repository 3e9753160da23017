"""Before a run's first episode: its data, how it computes, and the rest of its defaults."""

from __future__ import annotations

from dataclasses import dataclass

from kasmina.data.dataset import Dataset, load_dataset
from kasmina.runs.compute import choose_compute, simulated_compute
from kasmina.runs.episode_source import EpisodeSource
from kasmina.runs.journal import Journal
from kasmina.runs.network_source import NetworkSource
from kasmina.runs.run_control import RunControl, RunFailed
from kasmina.runs.run_defaults import fill_in_data
from kasmina.runs.run_log import RunRecord
from kasmina.runs.run_spec import dataset_settings
from kasmina.runs.simulated_host import is_simulated
from kasmina.runs.simulator_source import SimulatorSource
from kasmina.settings import KasminaSettings
from leyline.v1.trainer_pb2 import Compute, RunSpec


@dataclass(frozen=True)
class Preparation:
    """A run whose episodes can be played.

    Attributes:
        spec: settled, and written down so.
        source: of the episodes' trainers.
    """

    spec: RunSpec
    source: EpisodeSource


def prepare(
    run: RunRecord,
    settings: KasminaSettings,
    journal: Journal,
    control: RunControl,
    device: str,
    threads: int,
) -> Preparation:
    """Settles a run's specification and how it computes, once and for all.

    `device` is what torch calls it, `threads` those of this worker: for a run that starts now. One
    that goes on, has a twin or is a fork computes as it, or they, did before.

    Raises:
        RunFailed, DatasetError: it cannot be played.
        RunCancelled: somebody asked for its end.
    """
    spec = run.spec
    dataset = None
    if not is_simulated(spec):
        dataset = load_dataset(dataset_settings(spec, settings.data, settings.cache))
        fill_in_data(spec, dataset)
    compute = run.compute or _compute_of_kin(spec, journal)
    if compute is None:
        compute = _chosen(spec, dataset, device, threads)
    if dataset is not None:
        spec.training.precision = compute.precision
    control.persist(lambda: journal.runs.settle_compute(run.run_id, compute))
    control.persist(lambda: journal.runs.settle_spec(run.run_id, spec))
    return Preparation(spec, _source(spec, compute, dataset))


def _compute_of_kin(spec: RunSpec, journal: Journal) -> Compute | None:
    """How the run's parent or twin computes: bit for bit the same curves need the same."""
    kin = spec.fork.parent.run_id or spec.twin_run
    record = journal.runs.get(kin) if kin else None
    return None if record is None else record.compute


def _chosen(spec: RunSpec, dataset: Dataset | None, device: str, threads: int) -> Compute:
    if dataset is None:
        return simulated_compute(threads)
    return choose_compute(spec, dataset, device, threads)


def _source(spec: RunSpec, compute: Compute, dataset: Dataset | None) -> EpisodeSource:
    if dataset is not None:
        return NetworkSource(spec, compute, dataset)
    try:
        return SimulatorSource(spec)
    except ValueError as error:
        raise RunFailed(f"the episodes cannot be simulated: {error}") from error
