"""The worker: a process that plays one run's episodes, and dies with the service that started it.

The service writes an order to its standard input and keeps that open: when it ends, so does the
worker. The worker answers on its standard output. Both write one JSON object a line; more than the
order the service has to say only where a caller decides. Everything else about the run is in the
journal.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TextIO

import torch
from pydantic import BaseModel

from chassis.logging import bind_call, configure, get_logger
from chassis.tracing import open_tracing
from kasmina.checkpoint import CheckpointError
from kasmina.data.errors import DatasetError
from kasmina.runs.background_loop import BackgroundLoop
from kasmina.runs.caller_decider import CallerDecider
from kasmina.runs.decider import Decider
from kasmina.runs.disk import Disk
from kasmina.runs.episode import Episode, EpisodeSetting
from kasmina.runs.experience_client import ANSWER_S
from kasmina.runs.introducer import Introducer
from kasmina.runs.journal import Journal
from kasmina.runs.plan_decider import PlanDecider
from kasmina.runs.preparation import Preparation, prepare
from kasmina.runs.remote_decider import Neighbours, RemoteDecider
from kasmina.runs.run_control import RunAbandoned, RunCancelled, RunControl, RunFailed
from kasmina.runs.run_log import RunRecord
from kasmina.runs.state_directory import StateDirectory
from kasmina.settings import KasminaSettings
from leyline.indices import episode_indices
from leyline.v1.trainer_pb2 import (
    RUN_STATE_CANCELLED,
    RUN_STATE_COMPLETED,
    RUN_STATE_FAILED,
    RunSpec,
    RunState,
)
from leyline.v1.transition_pb2 import TERMINATION_ABANDONED, Termination

_log = get_logger(__name__)

_PREDECESSOR_PATIENCE_S = 30.0
_DATA_POLL_S = 1.0
_WITHOUT_CHECKPOINT = (
    "The run cannot go on without it. Its completed steps and ended episodes are kept; look after"
    " the disk, and start a run of the same specification under another name"
)

Message = dict[str, Any]
_Ending = tuple[RunState.ValueType, str, Termination.ValueType | None]


class Order(BaseModel):
    """What the service tells its worker.

    Attributes:
        run_id: the run to play.
        number: of the worker, among those that the service has at once.
        settings: the service's own.
    """

    run_id: str
    number: int
    settings: KasminaSettings


@dataclass(frozen=True)
class Line:
    """To the service and back.

    Attributes:
        report: tells the service.
        inbox: what the service says after the order.
    """

    report: Callable[[Message], None]
    inbox: SimpleQueue[Message]


class Worker:
    """Plays one run to its end, from wherever the journal says that it stands."""

    def __init__(self, order: Order, line: Line) -> None:
        self._order = order
        self._line = line
        self._settings = order.settings
        self._state = StateDirectory.open(self._settings.state_dir)
        self._journal = Journal(self._state.journal)
        self._tracing = open_tracing("kasmina", self._settings)
        self._control = RunControl(
            order.run_id,
            self._journal,
            Disk(self._state.root, self._state.reserve, self._settings.min_free_bytes),
            lambda reason: line.report({"disk_full": reason}),
            waits_for_experience=self._settings.wait_for_experience,
        )

    def work(self) -> None:
        """Plays the run, and writes its end down."""
        try:
            self._work()
        finally:
            if self._tracing is not None:
                self._tracing.close()

    def _work(self) -> None:
        run_id, runs = self._order.run_id, self._journal.runs
        # The worker of a service that was killed may live for a moment longer.
        with self._state.run_lock(run_id, _PREDECESSOR_PATIENCE_S):
            ending = self._ending()
            if ending is not None:
                again = self._settings.wait_for_experience
                self._control.persist(
                    lambda: runs.end(run_id, *ending, played_again=again), to_the_end=True
                )
            run = runs.get(run_id)
            keep = run is not None and run.spec.keep_checkpoints
            self._state.forget_work(run_id, keep_checkpoints=keep)

    def _ending(self) -> _Ending | None:
        """Plays the run; what state it ends in, why, and how the episode that it is in ends. None
        where it had ended before.
        """
        try:
            run = self._control.persist(lambda: self._journal.runs.take(self._order.run_id))
            if run.has_ended:
                return None
            self._control.check_cancelled()
            self._play(run)
        except RunAbandoned as abandoned:
            return RUN_STATE_CANCELLED, abandoned.reason, TERMINATION_ABANDONED
        except RunCancelled as cancelled:
            return RUN_STATE_CANCELLED, cancelled.reason, None
        except (RunFailed, DatasetError) as error:
            return _failed(str(error))
        except CheckpointError as error:
            return _failed(f"{error}. {_WITHOUT_CHECKPOINT}")
        return RUN_STATE_COMPLETED, "", None

    def _play(self, run: RunRecord) -> None:
        threads = self._settings.worker_threads if run.compute is None else run.compute.threads
        torch.set_num_threads(threads)
        device = _device(self._settings.device, self._order.number)
        prepared = self._prepared(run, device, threads)
        with BackgroundLoop() as loop:
            setting = EpisodeSetting(
                run_id=run.run_id,
                spec=prepared.spec,
                source=prepared.source,
                journal=self._journal,
                state=self._state,
                control=self._control,
                decider=self._decider(prepared.spec, loop, driven=run.driven),
                tracing=self._tracing,
            )
            for episode_index in episode_indices(prepared.spec):
                bind_call(run_id=run.run_id, episode=episode_index)
                Episode(setting, episode_index).play()
            # What was done last, too: before it is stored, the run is not completed.
            self._control.await_experience()

    def _prepared(self, run: RunRecord, device: str, threads: int) -> Preparation:
        """The run, ready to be played. One that has begun waits for its data as for room on a disk:
        a folder that is not there, or a service that was started without its setting, must not
        cost what was trained.
        """
        while True:
            try:
                prepared = prepare(
                    run, self._settings, self._journal, self._control, device, threads
                )
            except DatasetError as error:
                if run.compute is None:
                    raise
                self._control.pause(str(error))
                time.sleep(_DATA_POLL_S)
            else:
                self._control.go_on()
                return prepared

    def _decider(self, spec: RunSpec, loop: BackgroundLoop, *, driven: bool) -> Decider:
        settings, line = self._settings, self._line
        experience = settings.channel(settings.experience)
        patient, timeout_s = settings.wait_for_experience, settings.experience_timeout_s
        if patient:
            # A call that is given up may have been carried out: each one more is a higher fence.
            timeout_s = max(timeout_s, ANSWER_S)
        waiting = self._control if patient else None
        introducer = Introducer(experience, timeout_s, loop, waiting, self._tracing)
        if driven:
            patience_s = settings.drive_patience_s
            return CallerDecider(line.report, line.inbox, introducer, self._control, patience_s)
        if spec.policy.HasField("plan"):
            return PlanDecider(spec.policy.plan, introducer)
        policy = settings.policies.get(spec.policy.endpoint)
        if policy is None:
            raise RunFailed(f"LEYLINE_KASMINA_POLICIES has no {spec.policy.endpoint!r} any more")
        neighbours = Neighbours(
            policy=settings.channel(policy),
            experience=experience,
            decision_timeout_s=spec.policy.decision_timeout.ToNanoseconds() / 1e9,
            policy_grace_s=settings.policy_grace_s,
            experience_timeout_s=timeout_s,
            mode=spec.policy.mode,
            # An attempt that went on with WAIT would not be the same as the next one.
            deterministic=spec.policy.deterministic or patient,
        )
        return RemoteDecider(neighbours, loop, self._control, self._tracing)


def _failed(why: str) -> _Ending:
    _log.error("run failed", reason=why)
    return RUN_STATE_FAILED, why, None


def _device(kind: str, number: int) -> str:
    """The device of a worker, as torch names it: one GPU after the other. Untested on a GPU."""
    if kind != "cuda":
        return kind
    return f"cuda:{number % max(torch.cuda.device_count(), 1)}"


def main() -> int:
    """Reads an order and carries it out. Exit code 0: the run has ended, however; anything else: a
    crash.
    """
    # Ctrl-C reaches the whole process group; the service decides what becomes of its worker.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    reports = _claim_standard_output()
    heard = _standard_input()
    first = next(heard, None)
    if first is None:
        return 0  # the service ended before there was a run
    order = Order.model_validate_json(first)
    configure("kasmina-worker", order.settings.log_level, order.settings.log_format)
    inbox: SimpleQueue[Message] = SimpleQueue()
    threading.Thread(target=_listen, args=(heard, inbox), daemon=True).start()

    def report(message: Message) -> None:
        reports.write(json.dumps(message) + "\n")
        reports.flush()

    try:
        Worker(order, Line(report, inbox)).work()
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


def _standard_input() -> Iterator[bytes]:
    """The lines of standard input, to its end."""
    # Not by way of sys.stdin: a thread that waits in there would trouble an orderly exit.
    rest = b""
    while piece := os.read(0, 65536):
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines


def _listen(heard: Iterator[bytes], inbox: SimpleQueue[Message]) -> None:
    """Passes on what the service says, and dies with it."""
    for line in heard:
        inbox.put(json.loads(line))
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
