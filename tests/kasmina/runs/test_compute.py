"""How a run computes: measured once, recorded, and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tests.kasmina.runs.stage import striped

from kasmina.data.dataset import Dataset
from kasmina.runs import compute as compute_module
from kasmina.runs import preparation
from kasmina.runs.compute import choose_compute, simulated_compute
from kasmina.runs.disk import Disk
from kasmina.runs.journal import Journal
from kasmina.runs.preparation import Preparation, prepare
from kasmina.runs.run_control import RunControl, RunFailed
from kasmina.runs.run_defaults import fill_in
from kasmina.settings import KasminaSettings
from leyline.v1.trainer_pb2 import (
    PRECISION_BF16,
    PRECISION_FP32,
    PRECISION_UNSPECIFIED,
    Compute,
    HostSpec,
    Precision,
    RunSpec,
    TrainingSpec,
)

SETTINGS = KasminaSettings()


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """A measurement sets the number of threads of the process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def taking(monkeypatch: pytest.MonkeyPatch, fp32_s: float, bf16_s: float) -> list[bool]:
    """Has steps of each precision take so long, by a clock that the steps move on; the precision of
    every step that was taken.
    """
    now, taken = 0.0, []

    def step(*_: object, bf16: bool) -> Callable[[], None]:
        def work() -> None:
            nonlocal now
            now += bf16_s if bf16 else fp32_s
            taken.append(bf16)

        return work

    monkeypatch.setattr(compute_module, "_step", step)
    monkeypatch.setattr(compute_module, "perf_counter", lambda: now)
    return taken


def chosen(images: Dataset, precision: Precision.ValueType = PRECISION_UNSPECIFIED) -> Compute:
    """How a run on stripes computes."""
    training = TrainingSpec(batch_size=32, precision=precision)
    return choose_compute(fill_in(striped(training=training), SETTINGS), images, "cpu", 2)


@pytest.mark.parametrize(
    ("fp32_s", "bf16_s", "precision"),
    [
        (1.0, 0.5, PRECISION_BF16),
        (1.0, 0.95, PRECISION_BF16),
        (1.0, 0.96, PRECISION_FP32),
        (1.0, 2.0, PRECISION_FP32),
    ],
)
def test_bf16_is_taken_where_it_gains_a_twentieth(
    stripes: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    fp32_s: float,
    bf16_s: float,
    precision: Precision.ValueType,
) -> None:
    taking(monkeypatch, fp32_s, bf16_s)
    compute = chosen(stripes)
    assert compute.precision == precision
    assert compute.fp32_images_per_second == pytest.approx(32 / fp32_s)
    assert compute.bf16_images_per_second == pytest.approx(32 / bf16_s)


def test_a_host_that_is_done_in_no_time_is_not_measured_further(
    stripes: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = taking(monkeypatch, 0.004, 0.001)
    compute = chosen(stripes)
    assert compute.precision == PRECISION_FP32
    assert taken == [False, False]
    assert not compute.HasField("bf16_images_per_second")


def test_of_a_slow_host_a_step_of_each_must_do(
    stripes: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = taking(monkeypatch, 4.0, 3.0)
    assert chosen(stripes).precision == PRECISION_BF16
    assert taken == [False, True]


def test_a_precision_that_was_chosen_is_not_measured(
    stripes: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = taking(monkeypatch, 1.0, 0.1)
    compute = chosen(stripes, PRECISION_FP32)
    assert compute.precision == PRECISION_FP32
    assert not taken
    assert not compute.HasField("fp32_images_per_second")


def test_measuring_leaves_the_random_state_alone_and_says_what_was_found(
    stripes: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compute_module, "_TINY_STEP_S", 0.0)
    host = HostSpec(name="vit", channels=[12], options={"depth": "1", "dropout": "0.5"})
    spec = fill_in(striped(host=host), SETTINGS)
    before = torch.get_rng_state()
    compute = choose_compute(spec, stripes, "cpu", 1)
    assert torch.equal(torch.get_rng_state(), before)
    assert compute.precision in (PRECISION_FP32, PRECISION_BF16)
    assert compute.fp32_images_per_second > 0
    assert compute.bf16_images_per_second > 0
    assert (compute.device, compute.threads, compute.channels_last) == ("cpu", 1, True)
    assert compute.device_name
    assert compute.torch_version == torch.__version__


def test_a_host_that_cannot_be_built_for_the_images_fails_the_run(stripes: Dataset) -> None:
    host = HostSpec(name="vit", options={"patch": "7"})
    spec = fill_in(striped(host=host), SETTINGS)
    with pytest.raises(RunFailed, match="does not divide images of 16x16"):
        choose_compute(spec, stripes, "cpu", 1)


def test_the_simulator_has_nothing_to_measure() -> None:
    compute = simulated_compute(3)
    assert (compute.precision, compute.threads) == (PRECISION_FP32, 3)
    assert not compute.HasField("fp32_images_per_second")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """An empty journal."""
    journal = Journal(tmp_path / "journal.sqlite3")
    yield journal
    journal.close()


def prepared(
    journal: Journal, run_id: str, spec: RunSpec, device: str = "cpu", threads: int = 1
) -> Preparation:
    """A run as its worker begins or goes on with it."""
    if journal.runs.get(run_id) is None:
        journal.runs.create(run_id, spec, fill_in(spec, SETTINGS), queue_limit=9)
    run = journal.runs.take(run_id)
    disk = Disk(Path("."), Path("reserve"), 0)
    control = RunControl(run_id, journal, disk, lambda reason: None)
    return prepare(run, SETTINGS, journal, control, device, threads)


@pytest.fixture
def measured(stripes: Dataset, monkeypatch: pytest.MonkeyPatch) -> list[Precision.ValueType]:
    """Measurements find what the list says, in turn."""
    found: list[Precision.ValueType] = []

    def choose(spec: RunSpec, dataset: Dataset, device: str, threads: int) -> Compute:
        precision = spec.training.precision or found.pop(0)
        return Compute(device=device, precision=precision, threads=threads)

    monkeypatch.setattr(preparation, "choose_compute", choose)
    monkeypatch.setattr(preparation, "load_dataset", lambda settings: stripes)
    return found


def test_a_run_that_goes_on_computes_as_it_did(
    journal: Journal, measured: list[Precision.ValueType]
) -> None:
    measured += [PRECISION_BF16]
    first = prepared(journal, "run", striped(), threads=2)
    again = prepared(journal, "run", striped(), threads=7)
    assert first.spec.training.precision == PRECISION_BF16
    assert again.spec == first.spec
    run = journal.runs.get("run")
    assert run is not None
    assert run.compute == Compute(device="cpu", precision=PRECISION_BF16, threads=2)
    assert run.spec == first.spec


def test_a_run_computes_as_its_twin_did(
    journal: Journal, measured: list[Precision.ValueType]
) -> None:
    measured += [PRECISION_BF16, PRECISION_FP32]
    prepared(journal, "twin", striped(), threads=2)
    grown = prepared(journal, "grown", striped(twin_run="twin"), threads=7)
    run = journal.runs.get("grown")
    assert run is not None
    assert run.compute is not None
    assert run.compute.threads == 2
    assert grown.spec.training.precision == PRECISION_BF16


def test_the_simulator_needs_no_data(journal: Journal) -> None:
    spec = RunSpec(host=HostSpec(name="simulator"))
    simulated = prepared(journal, "run", spec, device="cuda:0")
    assert not simulated.spec.HasField("dataset")
    run = journal.runs.get("run")
    assert run is not None
    assert run.compute is not None
    assert run.compute.device == "cpu"
