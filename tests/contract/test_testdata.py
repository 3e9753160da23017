"""Python against proto/testdata, and proto/testdata against its generator."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import protovalidate
import pytest
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.message import Message

from leyline.identity import sampling_seed
from leyline.observation import fingerprint, slot_order, spec_by_name, spec_names, vectorize
from leyline.v1.observation_pb2 import ObservationSpec
from leyline.v1.snapshot_pb2 import MultiSlotSnapshot

REPOSITORY = Path(__file__).resolve().parents[2]
TESTDATA = REPOSITORY / "proto" / "testdata"
SNAPSHOTS = sorted((TESTDATA / "snapshots").glob("*.json"))
INVALID = sorted((TESTDATA / "invalid").glob("*.json"))

for module in ("decision", "experience", "policy", "snapshot", "transition"):
    importlib.import_module(f"leyline.v1.{module}_pb2")


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def message(type_name: str, content: dict[str, Any]) -> Message:
    described = descriptor_pool.Default().FindMessageTypeByName(type_name)
    made = message_factory.GetMessageClass(described)()
    json_format.ParseDict(content, made)
    return made


def violations(found: Message) -> list[tuple[str, str]]:
    return sorted(
        (path(violation.proto.field), violation.proto.rule_id)
        for violation in protovalidate.collect_violations(found)
    )


def path(field: Any) -> str:
    """A violation's field path, as protovalidate writes it."""
    text = ""
    for element in field.elements if field else ():
        text += f".{element.field_name}" if text else element.field_name
        if element.subscript is not None:
            text += f"[{element.subscript.value}]"
    return text


@pytest.mark.parametrize("file", SNAPSHOTS, ids=lambda file: file.stem)
def test_a_golden_snapshot_is_valid_and_becomes_its_golden_vectors(file: Path) -> None:
    golden = read(file)
    snapshot = json_format.ParseDict(golden["snapshot"], MultiSlotSnapshot())
    assert violations(snapshot) == []
    assert list(slot_order(snapshot)) == golden["slot_order"]
    assert set(golden["vectors"]) == set(spec_names())
    for name, expected in golden["vectors"].items():
        spec = spec_by_name(name)
        assert expected["fingerprint"] == spec.fingerprint
        np.testing.assert_array_equal(
            vectorize(snapshot, spec), np.array(expected["vector"], dtype=np.float32)
        )


def test_golden_snapshots_have_one_three_and_six_slots_in_order_and_out_of_it() -> None:
    slots = [read(file)["snapshot"]["slots"] for file in SNAPSHOTS]
    assert len(slots) >= 24
    assert set(Counter(len(of_one) for of_one in slots)) == {1, 3, 6}
    depths = [[slot.get("depth", 0) for slot in of_one] for of_one in slots]
    assert any(of_one != sorted(of_one) for of_one in depths)


@pytest.mark.parametrize("file", INVALID, ids=lambda file: file.stem)
def test_an_invalid_message_gets_exactly_its_violations(file: Path) -> None:
    case = read(file)
    expected = [(violation["field"], violation["rule_id"]) for violation in case["violations"]]
    assert expected
    assert violations(message(case["type"], case["message"])) == expected


def test_there_are_invalid_snapshots_decisions_queries_transitions_and_what_carries_them() -> None:
    types = Counter(read(file)["type"].removeprefix("leyline.v1.") for file in INVALID)
    assert types.total() >= 12
    contents = {"MultiSlotSnapshot", "Decision", "DecisionQuery", "Transition"}
    assert set(types) == contents | {"StreamDecisionsRequest", "ExperienceItem"}


@pytest.mark.parametrize("name", spec_names())
def test_a_spec_in_the_files_is_the_one_in_the_code(name: str) -> None:
    written = json_format.ParseDict(read(TESTDATA / "specs" / f"{name}.json"), ObservationSpec())
    assert written == spec_by_name(name)
    assert written.fingerprint == fingerprint(written)


def test_sampling_seeds_are_those_in_the_file() -> None:
    for case in read(TESTDATA / "sampling_seeds.json"):
        seed = sampling_seed(int(case["run_seed"]), case["episode_index"], case["step"])
        assert str(seed) == case["sampling_seed"]


def test_the_files_and_the_tables_are_what_the_generator_writes(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "tests.contract.make_testdata", str(tmp_path)],
        cwd=REPOSITORY,
        check=True,
    )
    written = {file.relative_to(tmp_path): file for file in tmp_path.rglob("*") if file.is_file()}
    committed = {file.relative_to(REPOSITORY) for file in TESTDATA.rglob("*.json")}
    assert set(written) == committed | {Path("docs/observation.md")}
    for relative, file in written.items():
        assert file.read_text(encoding="utf-8") == (REPOSITORY / relative).read_text("utf-8")
