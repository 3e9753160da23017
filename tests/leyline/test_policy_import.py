"""`leyline policy import` against a real Simic, and a real Tamiyo that follows it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from tests.leyline.conftest import COMMAND
from tests.simic.running import running as simic_running
from tests.tamiyo.networks import Network, sums_graph
from tests.tamiyo.queries import query
from tests.tamiyo.running import running as tamiyo_running
from tests.tamiyo.running import serves

from chassis.address import Address
from leyline.cli import main
from leyline.client import Registry
from leyline.document import write
from leyline.observation import SEED_SPEC, fingerprint, slot_order, vectorize
from leyline.v1.decision_pb2 import ACTION_TYPE_WAIT, SELECTION_MODE_GREEDY
from leyline.v1.observation_pb2 import ObservationSpec
from leyline.v1.policy_pb2 import DecideRequest, SlotRequirement
from leyline.v1.policy_pb2_grpc import PolicyServiceStub
from leyline.v1.registry_pb2 import PolicyManifest
from tamiyo.sampling import ACTION_TYPES

EXAMPLE = Path(__file__).parents[2] / "examples" / "policies" / "export.py"
NOBODY = "127.0.0.1:1"
"""Who sends anything there is told that no service answers."""


class Desk:
    """Somebody with a file of their own, and a Simic."""

    def __init__(self, simic: str, file: Path) -> None:
        self.simic = simic
        self.file = file

    async def imports(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Import the file as `mine`."""
        return await asyncio.to_thread(
            subprocess.run,
            [*COMMAND, "policy", "import", str(self.file), "--name", "mine", *arguments],
            env={**os.environ, "LEYLINE_SIMIC_ADDRESS": self.simic},
            capture_output=True,
            text=True,
            check=False,
        )

    async def versions(self) -> list[tuple[PolicyManifest, bool]]:
        """What the registry has."""
        async with Registry(self.simic) as registry:
            return [version async for version in registry.list()]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    file = tmp_path / "mine.onnx"
    file.write_bytes(Network(seed=3).graph().SerializeToString())
    async with simic_running(tmp_path):
        yield Desk((tmp_path / "address").read_text().strip(), file)


async def test_an_imported_model_is_served_and_decides_as_it_says(
    desk: Desk, tmp_path: Path
) -> None:
    done = await desk.imports("--activate", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    assert (said["active"], said["already_registered"]) == (True, False)
    directory = tmp_path / "tamiyo"
    directory.mkdir()
    async with tamiyo_running(directory, registry=Address.parse(desk.simic)) as channel:
        await serves(channel, said["policy_version"])
        stub = PolicyServiceStub(channel)
        for step in range(20):
            asked = query(step, mode=SELECTION_MODE_GREEDY)
            decision = (await stub.Decide(DecideRequest(query=asked))).decision
            observation = vectorize(asked.snapshot, SEED_SPEC)[np.newaxis]
            types, slots, value = Network(seed=3).run(observation)
            index = int(types[0].argmax())
            assert decision.policy_version == said["policy_version"]
            assert decision.action_type == ACTION_TYPES[index]
            assert abs(decision.value - value[0]) < 1e-5
            if decision.action_type != ACTION_TYPE_WAIT:
                best = int(slots[0, index].argmax())
                assert decision.slot_id == slot_order(asked.snapshot)[best]
    async with Registry(desk.simic) as registry:
        (report,) = (await registry.get(said["policy_version"])).reports
    assert report.accepted


async def test_it_says_what_came_of_it_for_people(desk: Desk) -> None:
    done = await desk.imports()
    ((manifest, active),) = await desk.versions()
    assert not active
    assert done.returncode == 0
    assert [line.split(maxsplit=1) for line in done.stdout.splitlines()] == [
        ["version", manifest.policy_version],
        ["size", f"{desk.file.stat().st_size:,} bytes"],
        ["decides", f"on  3 slots under the spec seed, fingerprint {SEED_SPEC.fingerprint[:12]}"],
        ["registered", f"{manifest.registered_at.ToDatetime():%Y-%m-%d %H:%M:%S}"],
        ["active", f"no; leyline policy activate {manifest.policy_version}"],
    ]


async def test_a_file_that_is_imported_twice_is_one_version_and_the_second_time_says_so(
    desk: Desk,
) -> None:
    first = json.loads((await desk.imports("--json")).stdout)
    again = await desk.imports()
    assert again.returncode == 0
    assert "already" in again.stdout
    activated = json.loads((await desk.imports("--activate", "--json")).stdout)
    assert activated == {**first, "already_registered": True, "active": True}
    assert "yes" in (await desk.imports()).stdout
    assert len(await desk.versions()) == 1


async def test_a_version_that_is_there_is_not_taken_for_one_that_decides_on_something_else(
    desk: Desk,
) -> None:
    desk.file.write_bytes(sums_graph().SerializeToString())
    assert (await desk.imports("--slots", "any")).returncode == 0
    done = await desk.imports("--slots", "3", "--activate")
    assert done.returncode == 1
    assert "is there already, as any number of slots under the spec seed" in done.stderr
    assert "not as 3 slots under the spec seed" in done.stderr
    assert "choose another --name" in done.stderr
    ((manifest, active),) = await desk.versions()
    assert (manifest.slots, active) == (SlotRequirement(any=True), False)


async def test_a_model_of_several_pieces_arrives_whole(desk: Desk) -> None:
    model = Network(seed=3).graph()
    model.doc_string = "a megabyte of them " * 60_000
    desk.file.write_bytes(model.SerializeToString())
    said = json.loads((await desk.imports("--json")).stdout)
    assert int(said["artifact_size"]) == desk.file.stat().st_size > 1_000_000


async def test_a_model_may_be_made_for_a_spec_of_one_s_own(desk: Desk, tmp_path: Path) -> None:
    spec = ObservationSpec.FromString(SEED_SPEC.SerializeToString())
    spec.name, spec.global_features[0].scale = "mine", 5.0
    spec.ClearField("fingerprint")
    file = tmp_path / "spec.yaml"
    file.write_text(write(spec))
    spec.fingerprint = fingerprint(spec)
    done = await desk.imports("--spec", str(file), "--json")
    assert done.returncode == 0, done.stderr
    ((manifest, _),) = await desk.versions()
    assert manifest.observation_spec == spec
    # Who gives a fingerprint means it.
    spec.fingerprint = SEED_SPEC.fingerprint
    file.write_text(write(spec))
    done = await desk.imports("--spec", str(file), "--name", "other")
    assert done.returncode == 1
    assert "FINGERPRINT_MISMATCH" in done.stderr
    assert len(await desk.versions()) == 1


async def test_what_the_registry_refuses_is_said_in_its_words(desk: Desk) -> None:
    model = Network().graph()
    # onnxruntime runs a graph without a name, and the checker of ONNX wants one.
    model.graph.name = ""
    desk.file.write_bytes(model.SerializeToString())
    done = await desk.imports()
    assert done.returncode == 1
    assert done.stderr.startswith("leyline: ")
    assert "ARTIFACT_CORRUPT" in done.stderr


async def test_the_example_exports_a_model_that_is_imported(desk: Desk) -> None:
    exported = await asyncio.create_subprocess_exec(sys.executable, EXAMPLE, desk.file)
    assert await exported.wait() == 0
    done = await desk.imports("--activate", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["slots"] == {"exactly": 3}


def refusal(capsys: pytest.CaptureFixture[str], file: Path, *arguments: str) -> str:
    """Return the one line that an import ends with, while nothing can be sent."""
    code = main(["policy", "import", str(file), "--name", "mine", "--simic", NOBODY, *arguments])
    assert code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("leyline: ")
    return line


def test_a_model_that_is_refused_is_not_sent(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "mine.onnx"
    file.write_bytes(Network().graph().SerializeToString())
    assert "no service answers at 127.0.0.1:1 (UNAVAILABLE)" in refusal(capsys, file)
    for arguments, said in (
        (("--name", "mlp"), "choose another --name"),
        (("--slots", "4"), "exactly 3 slots, and not for 4"),
        (("--spec", "extended"), "choose the --spec"),
    ):
        line = refusal(capsys, file, *arguments)
        assert line.startswith(f"leyline: {file} is not imported: ")
        assert said in line
    file.write_text("no model")
    assert "it is no ONNX model" in refusal(capsys, file)


def test_a_file_that_cannot_be_read_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "No such file" in refusal(capsys, tmp_path / "nowhere.onnx")
    assert "Is a directory" in refusal(capsys, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--slots", "many"), "neither a number from 1 to 64 nor any"),
        (("--slots", "0"), "neither a number from 1 to 64 nor any"),
        (("--spec", "sead"), "seed, extended"),
    ],
)
def test_an_option_that_means_nothing_is_asked_for_wrongly(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, str], said: str
) -> None:
    assert main(["policy", "import", "mine.onnx", "--name", "mine", *arguments]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_mistake_in_a_spec_s_file_is_told_with_its_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(
        "name: mine\nglobal_features:\n- {name: epoch, field: epoch, scalling: LINEAR}\n"
    )
    assert main(["policy", "import", "mine.onnx", "--name", "mine", "--spec", str(file)]) == 2
    assert f"{file}:3: global_features[0].scalling" in capsys.readouterr().err
