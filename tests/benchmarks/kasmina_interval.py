"""What a decision interval costs under Kasmina, and how many images it trains on in a second.

Every arm is a process of its own: trainers stand at the gate (`tests.benchmarks.gate`) until they
are let go, references wait for a line.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from tests.benchmarks.gate import Act, Gate
from tests.benchmarks.reference import Reference
from tests.benchmarks.report import Measurement
from tests.benchmarks.turns import SETTLE_S, Cost, children, in_turns
from tests.benchmarks.workload import (
    BATCH,
    CHANNELS,
    INTERVAL_BATCHES,
    INTERVAL_IMAGES,
    LEARNING_RATE,
    MOMENTUM,
    TRAIN_IMAGES,
    VALIDATION_IMAGES,
    WEIGHT_DECAY,
)
from tests.integration.stack import Stack

from leyline.client import Trainer
from leyline.v1.decision_pb2 import ACTION_TYPE_ADVANCE, ACTION_TYPE_GERMINATE
from leyline.v1.policy_pb2_grpc import add_PolicyServiceServicer_to_server
from leyline.v1.trainer_pb2 import (
    PRECISION_FP32,
    PRECISION_UNSPECIFIED,
    DatasetSpec,
    GrowthSpec,
    HostSpec,
    PolicySpec,
    Precision,
    RunSpec,
    TrainingSpec,
)

SLOT = "slot-1"
"""Where the seed sits whose cost is measured: in the middle of the host."""
SEED_REPETITIONS = 5
_HORIZON = 1000
"""Longer than any benchmark: runs are cut off where it ends."""


class Arm:
    """A run of a Kasmina that stands at the gate between two intervals."""

    def __init__(self, stack: Stack, gate: Gate, run_id: str) -> None:
        self.run_id = run_id
        self._stack = stack
        self._gate = gate

    async def start(self, precision: Precision.ValueType) -> None:
        """Starts the run, and waits until it stands at its first decision."""
        spec = RunSpec(
            host=HostSpec(channels=CHANNELS),
            dataset=DatasetSpec(
                name="cifar100", training_images=TRAIN_IMAGES, validation_images=VALIDATION_IMAGES
            ),
            training=TrainingSpec(
                batch_size=BATCH,
                interval_batches=INTERVAL_BATCHES,
                horizon=_HORIZON,
                learning_rate=LEARNING_RATE,
                momentum=MOMENTUM,
                weight_decay=WEIGHT_DECAY,
                precision=precision,
            ),
            growth=GrowthSpec(blend_intervals=2 * SEED_REPETITIONS),
            policy=PolicySpec(),
        )
        spec.policy.decision_timeout.FromSeconds(600)
        async with Trainer(self._stack.addresses["kasmina"]) as trainer:
            await trainer.start(spec, self.run_id)
        await self._gate.arrival(self.run_id)

    async def interval(self, act: Act | None = None) -> None:
        """Lets it take one step: a decision, an interval, and all that comes with them."""
        self._gate.let_go(self.run_id, act)
        await self._gate.arrival(self.run_id)

    async def end(self) -> None:
        """Cancels the run."""
        async with Trainer(self._stack.addresses["kasmina"]) as trainer:
            await trainer.cancel(self.run_id)
            self._gate.let_go(self.run_id)
            async for _ in trainer.watch(self.run_id):
                pass

    def pids(self) -> Sequence[int]:
        """The service and its workers."""
        return [self._service, *children(self._service)]

    async def precision(self) -> str:
        """What it computes with."""
        async with Trainer(self._stack.addresses["kasmina"]) as trainer:
            run = await trainer.get(self.run_id)
        return Precision.Name(run.compute.precision).removeprefix("PRECISION_").lower()

    @property
    def _service(self) -> int:
        return self._stack.processes["kasmina"].pid


@contextlib.asynccontextmanager
async def gated_kasmina(**environment: str) -> AsyncIterator[tuple[Stack, Gate]]:
    """The three services, with a gate between Kasmina and Tamiyo's policy `wait`."""
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder), policy="wait")
        async with grpc.aio.insecure_channel(stack.addresses["tamiyo"]) as tamiyo:
            gate, server = Gate(tamiyo), grpc.aio.server()
            add_PolicyServiceServicer_to_server(gate, server)
            stack.decides_at = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
            await server.start()
            try:
                await stack.up(**environment)
                yield stack, gate
            finally:
                stack.close()
                await server.stop(None)


async def attaching(pairs: int) -> dict[str, Measurement]:
    """What slots, telemetry and decisions cost beside a bare loop: pairs of intervals in turns.

    Each pair is of processes that have just been started: where their memory happens to lie makes
    an interval a hundredth cheaper or dearer, for as long as a process lives.
    """
    waits: list[tuple[Cost, Cost]] = []
    async with gated_kasmina(LEYLINE_KASMINA_THREADS="1") as (stack, gate):
        for number in range(pairs):
            pair = Pair(
                Arm(stack, gate, f"beside-bare-loop-{number}"),
                await Reference.start("tests.benchmarks.bare_loop"),
            )
            await pair.arm.start(PRECISION_FP32)
            await pair.intervals(1)
            waits += await pair.intervals(1)
            if number == pairs - 1:
                await pair.intervals(1, (ACTION_TYPE_GERMINATE, SLOT))
                trains = await pair.intervals(SEED_REPETITIONS, (ACTION_TYPE_ADVANCE, SLOT))
                blends = await pair.intervals(SEED_REPETITIONS, (ACTION_TYPE_ADVANCE, SLOT))
            await pair.end()
    return {
        "attached_cpu": _measured(waits, "cpu"),
        "attached_wall": _measured(waits, "wall"),
        "training_seed_cpu": _measured(trains, "cpu"),
        "blending_seed_cpu": _measured(blends, "cpu"),
    }


@dataclass(frozen=True)
class Pair:
    """A trainer and the bare loop."""

    arm: Arm
    bare: Reference

    async def intervals(self, count: int, act: Act | None = None) -> list[tuple[Cost, Cost]]:
        """Has both compute intervals in turns; the first of them begins with the act."""
        acts = [act] + [None] * (count - 1)
        return [
            await in_turns((self.arm, self.arm.interval(it)), (self.bare, self.bare.interval()))
            for it in acts
        ]

    async def end(self) -> None:
        """Ends both processes."""
        await self.arm.end()
        await self.bare.close()


async def throughput(rounds: int) -> dict[str, Measurement]:
    """Images a second: one worker on all cores, two with one each, and a loop from a tutorial."""
    both = {"LEYLINE_KASMINA_PARALLELISM": "2"}
    threads = {"LEYLINE_KASMINA_THREADS": str(os.cpu_count() or 1)}
    async with gated_kasmina(**both, **threads) as wide, gated_kasmina(**both) as narrow:
        fp32, chosen = Arm(*wide, "fp32"), Arm(*wide, "as-chosen")
        await fp32.start(PRECISION_FP32)
        await chosen.start(PRECISION_UNSPECIFIED)
        pair = [Arm(*narrow, "one"), Arm(*narrow, "other")]
        # Both as the one worker chose: a comparison of numbers of workers alone.
        precision = Precision.Value(f"PRECISION_{(await chosen.precision()).upper()}")
        for arm in pair:
            await arm.start(precision)
        loader = await Reference.start("tests.benchmarks.loader_loop")
        print(f"as chosen: {await chosen.precision()}; {loader.description}", flush=True)
        rates: dict[str, list[float]] = {}
        for number in range(rounds + 1):
            seconds = {
                "fp32": await _seconds(fp32.interval()),
                "chosen": await _seconds(chosen.interval()),
                "two": await _seconds(*(arm.interval() for arm in pair)),
                "loader": await _seconds(loader.interval()),
            }
            if number > 0:  # the first is a warm-up
                for name, taken in seconds.items():
                    images = INTERVAL_IMAGES * (len(pair) if name == "two" else 1)
                    rates.setdefault(name, []).append(images / taken)
        await loader.close()
    return {
        "images_fp32": Measurement(tuple(rates["fp32"]), tuple(rates["loader"])),
        "images_as_chosen": Measurement(tuple(rates["chosen"]), tuple(rates["loader"])),
        "images_two_workers": Measurement(tuple(rates["two"]), tuple(rates["chosen"])),
    }


async def _seconds(*intervals: Coroutine[Any, Any, None]) -> float:
    """Wall time until the last of them has ended; then leaves time to send what is left."""
    started = time.perf_counter()
    await asyncio.gather(*intervals)
    taken = time.perf_counter() - started
    await asyncio.sleep(SETTLE_S)
    return taken


def _measured(pairs: Sequence[tuple[Cost, Cost]], what: str) -> Measurement:
    return Measurement(
        values=tuple(getattr(ours, what) for ours, _ in pairs),
        reference_values=tuple(getattr(bare, what) for _, bare in pairs),
    )
