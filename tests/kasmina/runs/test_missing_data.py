"""Data that is gone when a run is to go on."""

from __future__ import annotations

from pathlib import Path

from tests.kasmina.data.files import encoded, pixels, write_parquet
from tests.kasmina.neighbours import Experience, Policy, serving, until
from tests.kasmina.running import kasmina, small_spec

from leyline.v1.trainer_pb2 import (
    RUN_STATE_CANCELLED,
    RUN_STATE_COMPLETED,
    RUN_STATE_FAILED,
    RUN_STATE_PAUSED,
    CancelRunRequest,
    DatasetSpec,
    RunSpec,
)


def birds(horizon: int) -> RunSpec:
    """A run on a data set that is a folder."""
    spec = small_spec(horizon=horizon)
    spec.dataset.CopyFrom(DatasetSpec(name="birds", training_images=100, validation_images=20))
    return spec


def write_birds(data: Path) -> None:
    images = [encoded(image) for image in pixels(120, side=16)]
    names = ["wren", "owl"]
    labels = [number % 2 for number in range(120)]
    write_parquet(
        data / "birds" / "train-0.parquet",
        images,
        labels,
        image="image",
        label="label",
        names=names,
    )


async def test_a_run_that_has_begun_waits_for_its_data_and_goes_on_once_they_are_back(
    tmp_path: Path,
) -> None:
    data, away = tmp_path / "data", tmp_path / "away"
    write_birds(data)
    environment = {"LEYLINE_DATA": str(data), "LEYLINE_KASMINA_PARALLELISM": "2"}
    policy, experience = Policy(), Experience()
    async with serving(policy, experience) as neighbours:
        async with kasmina(tmp_path, neighbours, neighbours, environment) as service:
            await service.start_run("mine", birds(horizon=20))
            await service.start_run("given-up", birds(horizon=20))
            await until(lambda: len(policy.asked) >= 6)
            await service.kill()
        data.rename(away)
        async with kasmina(tmp_path, neighbours, neighbours, environment) as service:
            for name in ("mine", "given-up"):
                while (waiting := await service.run(name)).state != RUN_STATE_PAUSED:
                    assert waiting.state != RUN_STATE_FAILED, waiting.status_message
                assert "birds" in waiting.status_message
            await service.stub.CancelRun(CancelRunRequest(run_id="given-up", reason="no birds"))
            await service.finish("given-up")
            assert (await service.run("given-up")).state == RUN_STATE_CANCELLED
            away.rename(data)
            await service.finish("mine")
            run = await service.run("mine")
            await until(lambda: ("mine", 0) in experience.ends)
    assert run.state == RUN_STATE_COMPLETED
    assert run.steps_completed == len(experience.episode("mine", 0)) == 20


async def test_a_run_that_never_began_ends_where_its_data_cannot_be_read(tmp_path: Path) -> None:
    write_birds(tmp_path / "data")
    environment = {"LEYLINE_DATA": str(tmp_path / "data")}
    policy, experience = Policy(), Experience()
    too_many = birds(horizon=2)
    too_many.dataset.training_images = 10_000
    async with (
        serving(policy, experience) as neighbours,
        kasmina(tmp_path, neighbours, neighbours, environment) as service,
    ):
        await service.start_run("mine", too_many)
        await service.finish("mine")
        run = await service.run("mine")
    assert run.state == RUN_STATE_FAILED
    assert "10020" in run.status_message
