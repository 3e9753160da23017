"""The generator of the stubs, and what they may lean on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STUBS = ROOT / "clients/python/leyline/v1"

# Registers a version of buf/validate/validate.proto as a foreign package with its own stubs does.
FOREIGN_RULES = """
from google.protobuf import descriptor_pb2, descriptor_pool
file = descriptor_pb2.FileDescriptorProto(
    name="buf/validate/validate.proto", package="buf.validate", syntax="proto2",
    dependency=["google/protobuf/descriptor.proto"])
file.message_type.add(name="FieldRules").field.add(name="required", number=25, type=8, label=1)
file.extension.add(name="field", number=1159, type=11, label=1,
    type_name=".buf.validate.FieldRules", extendee=".google.protobuf.FieldOptions")
descriptor_pool.Default().AddSerializedFile(descriptor_pb2.DESCRIPTOR.serialized_pb)
descriptor_pool.Default().Add(file)
"""
OUR_RULES = """
import protovalidate
from leyline.v1 import policy_pb2
assert protovalidate.collect_violations(policy_pb2.DecideRequest())
"""


def generate(into: Path) -> dict[str, bytes]:
    """Runs the generator as ``make proto`` does; the stubs by their file's name."""
    command = [sys.executable, str(ROOT / "proto/stubs.py"), "--stubs", str(into)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {path.name: path.read_bytes() for path in (into / "leyline/v1").glob("*_pb2*")}


def test_the_installed_stubs_are_those_of_the_contract(tmp_path: Path) -> None:
    assert generate(tmp_path) == {path.name: path.read_bytes() for path in STUBS.glob("*_pb2*")}


def test_generating_again_touches_nothing_and_removes_the_stubs_of_a_proto_that_is_gone(
    tmp_path: Path,
) -> None:
    stubs = generate(tmp_path)
    gone, stays = tmp_path / "leyline/v1/gone_pb2.py", tmp_path / "leyline/v1/snapshot_pb2.py"
    gone.write_text("raise ImportError\n")
    written = stays.stat().st_mtime_ns
    assert generate(tmp_path) == stubs
    assert not gone.exists()
    assert stays.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    "program",
    [OUR_RULES, FOREIGN_RULES + OUR_RULES, OUR_RULES + FOREIGN_RULES],
    ids=["alone", "after-a-foreign-one", "before-a-foreign-one"],
)
def test_the_rules_hold_whatever_version_of_them_another_package_brings(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
