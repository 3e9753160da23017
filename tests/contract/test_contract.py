"""What holds for the contract as a whole, beyond what its linter checks."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import protovalidate
import pytest

import leyline.v1

REPOSITORY = Path(__file__).resolve().parents[2]
PROTO = REPOSITORY / "proto"
SUBJECTS = sorted(file.stem for file in (PROTO / "leyline" / "v1").glob("*.proto"))
STUBS = Path(next(iter(leyline.v1.__path__)))
FILES = [importlib.import_module(f"leyline.v1.{subject}_pb2").DESCRIPTOR for subject in SUBJECTS]

# Where UNSPECIFIED is an answer: "the default" of what is started, "no reason" of no failure.
MAY_BE_UNSPECIFIED = {
    "leyline.v1.Execution.no_op_reason",
    "leyline.v1.GrowthSpec.alpha_schedule",
    "leyline.v1.GrowthSpec.choice",
    "leyline.v1.PolicySpec.mode",
    "leyline.v1.TrainingSpec.precision",
    "leyline.v1.TrainingSpec.schedule",
}


def enums() -> Iterator[Any]:
    for file in FILES:
        yield from file.enum_types_by_name.values()


def services() -> Iterator[Any]:
    for file in FILES:
        yield from file.services_by_name.values()


def inputs() -> dict[str, Any]:
    """Every message of ours that a service takes in, also deep inside of another."""
    found: dict[str, Any] = {}
    waiting = [method.input_type for service in services() for method in service.methods]
    while waiting:
        message = waiting.pop()
        if message.full_name in found or not message.full_name.startswith("leyline.v1."):
            continue
        found[message.full_name] = message
        waiting += [field.message_type for field in message.fields if field.message_type]
    return found


def test_there_are_the_five_services() -> None:
    assert {service.name: len(service.methods) for service in services()} == {
        "TrainerService": 8,
        "PolicyService": 3,
        "ExperienceService": 8,
        "PolicyRegistryService": 9,
        "LearnerService": 4,
    }


@pytest.mark.parametrize("enum", list(enums()), ids=lambda enum: enum.name)
def test_every_enum_begins_with_unspecified(enum: Any) -> None:
    first = enum.values[0]
    assert first.number == 0
    assert first.name.endswith("_UNSPECIFIED")


def enum_inputs() -> list[Any]:
    return [field for message in inputs().values() for field in message.fields if field.enum_type]


@pytest.mark.parametrize("field", enum_inputs(), ids=lambda field: field.full_name)
def test_an_enum_that_is_not_given_is_refused_and_never_guessed(field: Any) -> None:
    empty = field.containing_type._concrete_class()
    refused = {
        (violation.proto.field.elements[0].field_name, violation.proto.rule_id)
        for violation in protovalidate.collect_violations(empty)
        if violation.proto.field
    }
    is_refused = (field.name, "enum.not_in") in refused
    assert is_refused != (field.full_name in MAY_BE_UNSPECIFIED)


@pytest.mark.parametrize("field", enum_inputs(), ids=lambda field: field.full_name)
def test_an_enum_that_nobody_defined_is_refused(field: Any) -> None:
    message = field.containing_type._concrete_class(**{field.name: 1000})
    assert "enum.defined_only" in {
        violation.proto.rule_id for violation in protovalidate.collect_violations(message)
    }


def test_the_repository_holds_no_copy_of_somebody_elses_contract() -> None:
    packages = {file.relative_to(PROTO).parts[0] for file in PROTO.rglob("*.proto")}
    assert packages == {"leyline"}


@pytest.mark.parametrize("subject", SUBJECTS)
def test_stubs_are_typed(subject: str) -> None:
    file = importlib.import_module(f"leyline.v1.{subject}_pb2").DESCRIPTOR
    messages = (STUBS / f"{subject}_pb2.pyi").read_text(encoding="utf-8")
    for name in [*file.message_types_by_name, *file.enum_types_by_name]:
        assert f"class {name}" in messages or f"class _{name}" in messages
    calls = (STUBS / f"{subject}_pb2_grpc.pyi").read_text(encoding="utf-8")
    for name in file.services_by_name:
        assert f"class {name}Stub" in calls
        assert f"class {name}AsyncStub" in calls or f"{name}AsyncStub" in calls
