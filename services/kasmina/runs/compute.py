"""How a run computes: chosen when it first starts, recorded, and kept when it goes on.

A precision that the specification leaves open is measured: a few steps of the real host in fp32 and
under bf16 autocast, on copies that are thrown away. bf16 is taken where it is faster by at least a
twentieth. A host whose fp32 step takes less than five milliseconds is not worth measuring and stays
in fp32: its time goes elsewhere. The measurement takes about two seconds at most, or one step of
each kind where one takes more than half of them.
"""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import torch
from torch.nn import functional

from kasmina.data.dataset import Dataset
from kasmina.network.host import HostShape
from kasmina.network.hosts import build_host
from kasmina.randomness import set_aside
from kasmina.runs.run_control import RunFailed
from kasmina.training.augmentation import normalise
from leyline.v1.trainer_pb2 import (
    PRECISION_BF16,
    PRECISION_FP32,
    PRECISION_UNSPECIFIED,
    Compute,
    Precision,
    RunSpec,
)

_LEAST_GAIN = 1.05
_TINY_STEP_S = 0.005
_SLOW_STEP_S = 1.0
_ROUNDS = 5
_PATIENCE_S = 2.0

Step = Callable[[], None]


def simulated_compute(threads: int) -> Compute:
    """How the simulator computes: there is nothing to choose."""
    return _described("cpu", threads, PRECISION_FP32)


def choose_compute(spec: RunSpec, dataset: Dataset, device: str, threads: int) -> Compute:
    """How a run of the specification computes on the device, which torch names.

    The process's random state stays as it is. Raises `RunFailed` where the host cannot be built.
    """
    compute = _described(device, threads, spec.training.precision)
    compute.channels_last = True
    compute.compiled = spec.training.compile
    if compute.precision == PRECISION_UNSPECIFIED:
        torch.set_num_threads(threads)
        _measure(compute, spec, dataset)
    return compute


def _described(device: str, threads: int, precision: Precision.ValueType) -> Compute:
    return Compute(
        device=device,
        device_name=_name_of(torch.device(device)),
        precision=precision,
        threads=threads,
        torch_version=torch.__version__,
    )


def _measure(compute: Compute, spec: RunSpec, dataset: Dataset) -> None:
    """Fills in the faster precision, and what was measured."""
    device = torch.device(compute.device)
    with set_aside(0, device):
        fp32 = _step(spec, dataset, device, bf16=False)
        seconds = _seconds(fp32, device)
        slow = seconds >= _SLOW_STEP_S
        if not slow:  # the first step also chose kernels and made room
            seconds = _seconds(fp32, device)
        compute.precision = PRECISION_FP32
        compute.fp32_images_per_second = spec.training.batch_size / seconds
        if seconds < _TINY_STEP_S:
            return
        bf16 = _step(spec, dataset, device, bf16=True)
        medians = seconds, _seconds(bf16, device)
        if not slow:
            medians = _medians((fp32, bf16), device)
    compute.fp32_images_per_second, compute.bf16_images_per_second = (
        spec.training.batch_size / median for median in medians
    )
    if medians[0] >= _LEAST_GAIN * medians[1]:
        compute.precision = PRECISION_BF16


def _step(spec: RunSpec, dataset: Dataset, device: torch.device, *, bf16: bool) -> Step:
    """One optimiser step of a copy of the host: forward, loss, backward, update."""
    shape = HostShape(
        dataset.shape, dataset.classes, tuple(spec.host.channels), dict(spec.host.options)
    )
    try:
        host = build_host(spec.host.name, shape, seed=0)
    except ValueError as error:
        raise RunFailed(f"the host cannot be built for these images: {error}") from error
    host.to(device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(host.parameters(), lr=1e-3, momentum=0.9, nesterov=True)
    indices = torch.arange(spec.training.batch_size) % len(dataset.train)
    labels = dataset.train.labels[indices].to(device)
    images = normalise(
        dataset.train.images[indices].to(device),
        dataset.mean.to(device),
        dataset.deviation.to(device),
    )

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            logits = host(images)
        functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return step


def _medians(steps: tuple[Step, Step], device: torch.device) -> tuple[float, float]:
    """Seconds of a step of each; taken in turns, so that what else the machine does hits both."""
    times: tuple[list[float], list[float]] = ([], [])
    deadline = perf_counter() + _PATIENCE_S
    for _ in range(_ROUNDS):
        for step, taken in zip(steps, times, strict=True):
            taken.append(_seconds(step, device))
        if perf_counter() >= deadline:
            break
    return statistics.median(times[0]), statistics.median(times[1])


def _seconds(step: Step, device: torch.device) -> float:
    _wait_for(device)
    start = perf_counter()
    step()
    _wait_for(device)
    return perf_counter() - start


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _name_of(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.is_file() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())
