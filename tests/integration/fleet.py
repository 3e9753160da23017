"""Trainers that share one run, each in a process of its own, all over one Simic and one Tamiyo.

What is real: Kasmina's worker with its journal, outbox and drainer, its simulator, its calls over
gRPC. What is not: the service in front of it, which would cost 8 processes more, and the pace: each
interval is made to last as long as this module draws. The processes are forked from one that has
imported everything, before it has called anybody.

`python -m tests.integration.fleet ORDERS` is started by `Fleet` and ends when all have played.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from unittest.mock import patch

from chassis.channel import ChannelSettings, open_channel
from kasmina.runs.drainer import Drainer
from kasmina.runs.experience_client import ExperienceClient
from kasmina.runs.journal import Journal
from kasmina.runs.run_defaults import fill_in
from kasmina.runs.worker import Line, Order, Worker
from kasmina.settings import KasminaSettings
from kasmina.simulator.trainer import SimulatedTrainer
from kasmina.training.interval import IntervalFacts, OnBatch
from leyline.v1.trainer_pb2 import HostSpec, PolicySpec, RunSpec, TrainingSpec

RUN = "study"
LONGEST_INTERVAL_S = 0.03


@dataclass(frozen=True)
class Share:
    """Episodes that a trainer plays as one run of its own journal.

    Attributes:
        first, stride, episodes: as in RunSpec.
        is_cancelled: whether the run is cancelled in the second interval of its first episode.
    """

    first: int
    stride: int
    episodes: int
    is_cancelled: bool


def shares(indices: range, cancelled: Collection[int]) -> Iterator[Share]:
    """A trainer's episodes as runs: one that is cancelled ends there, and another one goes on."""
    first = indices.start
    for index in indices:
        if index in cancelled:
            if index > first:
                yield Share(first, indices.step, (index - first) // indices.step, False)
            yield Share(index, indices.step, 2, True)
            first = index + indices.step
    if first in indices:
        yield Share(first, indices.step, (indices[-1] - first) // indices.step + 1, False)


@dataclass(frozen=True)
class Orders:
    """What a fleet is to do.

    Attributes:
        folder: for the trainers' state.
        tamiyo, simic: where they listen.
        horizon: decision intervals of an episode.
        trainers: their shares, each in the order in which it plays them.
    """

    folder: str
    tamiyo: str
    simic: str
    horizon: int
    trainers: Sequence[Sequence[Share]]


class Fleet:
    """Trainers at work."""

    def __init__(self, orders: Orders) -> None:
        """Start them."""
        log = (Path(orders.folder) / "fleet.log").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.fleet", json.dumps(asdict(orders))],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        self._log = Path(log.name)
        log.close()

    @property
    def is_at_work(self) -> bool:
        return self._process.poll() is None

    def check(self) -> None:
        """Fails where a trainer has."""
        assert self._process.returncode == 0, self._log.read_text()[-3000:]

    def close(self) -> None:
        """Ends those that still play."""
        if self.is_at_work:
            self._process.terminate()
            self._process.wait()


def run_spec(horizon: int, share: Share) -> RunSpec:
    """The run, as each of those who share it is told."""
    return RunSpec(
        host=HostSpec(name="simulator"),
        training=TrainingSpec(horizon=horizon),
        policy=PolicySpec(deterministic=True),
        seed=11,
        episodes=share.episodes,
        first_episode=share.first,
        episode_stride=share.stride,
    )


def _play(orders: Orders, number: int) -> None:
    for part, share in enumerate(orders.trainers[number]):
        settings = KasminaSettings(
            state_dir=Path(orders.folder) / f"trainer-{number}-{part}",
            policies={"default": orders.tamiyo},
            experience=orders.simic,
            threads=1,
            log_format="json",
        )
        asyncio.run(_play_share(orders, share, settings))


async def _play_share(orders: Orders, share: Share, settings: KasminaSettings) -> None:
    requested = run_spec(orders.horizon, share)
    order = Order(run_id=RUN, number=0, settings=settings)
    worker = Worker(order, Line(lambda message: None, SimpleQueue()))
    journal = Journal(settings.state_dir / "journal.sqlite3")
    journal.runs.create(RUN, requested, fill_in(requested, settings), queue_limit=1)
    cancel = partial(journal.runs.request_cancel, RUN, "as the test wants it")
    slowly = _slowly(cancel if share.is_cancelled else None)
    async with open_channel(ChannelSettings(orders.simic)) as channel:
        drainer = Drainer(journal, ExperienceClient(channel), poll_interval_s=0.02)
        sending = asyncio.create_task(drainer.run())
        with patch.object(SimulatedTrainer, "train_interval", slowly):
            await asyncio.to_thread(worker.work)
        while journal.outbox.depth():  # noqa: ASYNC110 - what is waited for is in another process
            await asyncio.sleep(0.02)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    journal.close()


def _slowly(cancel: Callable[[], object] | None) -> Callable[..., IntervalFacts]:
    """Training whose intervals last, in each episode at a pace of its own.

    Args:
        cancel: called in the second interval of the first episode.
    """
    train = SimulatedTrainer.train_interval
    slowness = 0.0

    def train_interval(trainer: SimulatedTrainer, on_batch: OnBatch | None = None) -> IntervalFacts:
        nonlocal slowness
        if trainer.interval == 0:
            slowness = random.random()
        time.sleep(slowness * random.random() * LONGEST_INTERVAL_S)
        if trainer.interval == 1 and cancel is not None:
            cancel()
        return train(trainer, on_batch)

    return train_interval


def _main(orders: Orders) -> int:
    children = [_forked(orders, number) for number in range(len(orders.trainers))]
    return max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)


def _forked(orders: Orders, number: int) -> int:
    child = os.fork()
    if child == 0:
        random.seed()  # each its own pace
        try:
            _play(orders, number)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return child


def _read(text: str) -> Orders:
    content = json.loads(text)
    trainers = [[Share(**share) for share in own] for own in content.pop("trainers")]
    return Orders(**content, trainers=trainers)


if __name__ == "__main__":
    sys.exit(_main(_read(sys.argv[1])))
