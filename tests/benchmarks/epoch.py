"""What a decision interval costs under Kasmina, beside a bare loop."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

from tests.benchmarks.bare_loop import BATCH, INTERVAL_BATCHES, TRAIN_IMAGES, VALIDATION_IMAGES
from tests.benchmarks.report import Measurement
from tests.integration.stack import Stack

from leyline.client import Trainer
from leyline.v1.trainer_pb2 import RUN_STATE_COMPLETED, DatasetSpec, RunSpec, TrainingSpec

INTERVALS = 6
"""Of each repetition; the first is a warm-up that neither arm counts."""


async def epoch_with_slots(repetitions: int) -> Measurement:
    """Pairs of median seconds per interval: Kasmina's, and the bare loop's right after it."""
    ours, bare = [], []
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder), policy="wait")
        try:
            await stack.up()
            for number in range(repetitions):
                ours.append(await _kasmina(stack, f"repetition-{number}"))
                bare.append(_bare())
        finally:
            stack.close()
    return Measurement(values=tuple(ours), reference_values=tuple(bare))


async def _kasmina(stack: Stack, run_id: str) -> float:
    """From the completion of one step to that of the next: decision, checkpoint and all."""
    spec = RunSpec(
        dataset=DatasetSpec(
            name="cifar100", training_images=TRAIN_IMAGES, validation_images=VALIDATION_IMAGES
        ),
        training=TrainingSpec(
            batch_size=BATCH, interval_batches=INTERVAL_BATCHES, horizon=INTERVALS
        ),
    )
    times = []
    async with Trainer(stack.addresses["kasmina"]) as trainer:
        await trainer.start(spec, run_id)
        async for event in trainer.watch(run_id):
            if event.HasField("step_completed"):
                times.append(event.time.ToNanoseconds() / 1e9)
        run = await trainer.get(run_id)
    if run.state != RUN_STATE_COMPLETED:
        raise RuntimeError(f"{run_id} did not complete: {run.status_message}")
    return statistics.median(b - a for a, b in pairwise(times))


def _bare() -> float:
    command = [sys.executable, "-m", "tests.benchmarks.bare_loop", "--intervals", str(INTERVALS)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    seconds: list[float] = json.loads(done.stdout)
    return statistics.median(seconds[1:])
