"""The worker: a process that plays one run's episodes, and dies with the service that started it.

The service writes an order to its standard input and keeps that open: when it ends, so does the
worker. The worker answers on its standard output, one JSON object a line; everything else about the
run is in the journal.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, TextIO

import torch
from pydantic import BaseModel

from chassis.logging import bind_call, configure, get_logger
from kasmina.checkpoint import CheckpointError
from kasmina.data.dataset import load_dataset
from kasmina.data.errors import DatasetError
from kasmina.runs import run_spec
from kasmina.runs.background_loop import BackgroundLoop
from kasmina.runs.disk import Disk
from kasmina.runs.episode import Episode, EpisodeSetting
from kasmina.runs.journal import Journal
from kasmina.runs.remote_decider import Neighbours, RemoteDecider
from kasmina.runs.run_control import RunCancelled, RunControl, RunFailed
from kasmina.runs.run_log import RunRecord
from kasmina.runs.state_directory import StateDirectory
from kasmina.settings import KasminaSettings
from leyline.v1.trainer_pb2 import RUN_STATE_CANCELLED, RUN_STATE_COMPLETED, RUN_STATE_FAILED

_log = get_logger(__name__)

_PREDECESSOR_PATIENCE_S = 30.0

Report = Callable[[dict[str, Any]], None]


class Order(BaseModel):
    """What the service tells its worker.

    Attributes:
        run_id: the run to play.
        settings: the service's own.
    """

    run_id: str
    settings: KasminaSettings


def work(order: Order, report: Report) -> None:
    """Plays the run to its end, from wherever the journal says that it stands."""
    settings = order.settings
    torch.set_num_threads(settings.threads)
    state = StateDirectory.open(settings.state_dir)
    # The worker of a service that was killed may live for a moment longer.
    with state.worker_lock(_PREDECESSOR_PATIENCE_S):
        journal = Journal(state.journal)
        disk = Disk(state.root, state.reserve, settings.min_free_bytes)
        control = RunControl(
            order.run_id, journal, disk, lambda reason: report({"disk_full": reason})
        )
        try:
            run = control.persist(lambda: journal.runs.take(order.run_id))
            if run.has_ended:
                state.forget_checkpoints(order.run_id)
                return
            control.check_cancelled()
            _play(run, settings, state, journal, control)
            ending = RUN_STATE_COMPLETED, ""
        except RunCancelled as cancelled:
            ending = RUN_STATE_CANCELLED, cancelled.reason
        except (RunFailed, DatasetError, CheckpointError) as error:
            _log.error("run failed", reason=str(error))
            ending = RUN_STATE_FAILED, str(error)
        control.persist(lambda: journal.runs.end(order.run_id, *ending), to_the_end=True)
        state.forget_checkpoints(order.run_id)


def _play(
    run: RunRecord,
    settings: KasminaSettings,
    state: StateDirectory,
    journal: Journal,
    control: RunControl,
) -> None:
    spec = run.spec
    dataset = load_dataset(run_spec.dataset_settings(spec, settings.data, settings.cache))
    run_spec.fill_in_sizes(spec, dataset)
    control.persist(lambda: journal.runs.settle_spec(run.run_id, spec))
    policy = settings.policies.get(spec.policy.endpoint)
    if policy is None:
        raise RunFailed(f"LEYLINE_KASMINA_POLICIES has no {spec.policy.endpoint!r} any more")
    neighbours = Neighbours(
        policy=settings.channel(policy),
        experience=settings.channel(settings.experience),
        decision_timeout_s=spec.policy.decision_timeout.ToNanoseconds() / 1e9,
        policy_grace_s=settings.policy_grace_s,
        experience_timeout_s=settings.experience_timeout_s,
        mode=spec.policy.mode,
        deterministic=spec.policy.deterministic,
    )
    with BackgroundLoop() as loop:
        setting = EpisodeSetting(
            run_id=run.run_id,
            spec=spec,
            dataset=dataset,
            device=settings.device,
            threads=settings.threads,
            journal=journal,
            state=state,
            control=control,
            decider=RemoteDecider(neighbours, loop, control),
        )
        for episode_index in range(spec.episodes):
            bind_call(run_id=run.run_id, episode=episode_index)
            Episode(setting, episode_index).play()


def main() -> int:
    """Reads an order and carries it out. Exit code 0: the run has ended, however; anything else: a
    crash.
    """
    # Ctrl-C reaches the whole process group; the service decides what becomes of its worker.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    reports = _claim_standard_output()
    line = sys.stdin.readline()
    if not line:
        return 0  # the service ended before there was a run
    order = Order.model_validate_json(line)
    configure("kasmina-worker", order.settings.log_level, order.settings.log_format)
    threading.Thread(target=_die_with_the_service, daemon=True).start()

    def report(message: dict[str, Any]) -> None:
        reports.write(json.dumps(message) + "\n")
        reports.flush()

    try:
        work(order, report)
    except Exception as error:
        _log.critical("worker crashed", run_id=order.run_id, exc_info=error)
        report({"crash": f"{type(error).__name__}: {error}"})
        return 1
    return 0


def _claim_standard_output() -> TextIO:
    """Keeps standard output for reports: whatever a library prints goes to standard error from now
    on.
    """
    reports = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return reports


def _die_with_the_service() -> None:
    # Not by way of sys.stdin: a thread that waits in there would trouble an orderly exit.
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
