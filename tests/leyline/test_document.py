"""Runs as YAML: what may be written, and how mistakes are named before a service is asked."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from leyline.document import Document, InvalidDocument, write
from leyline.rules import violations
from leyline.v1.decision_pb2 import ACTION_TYPE_GERMINATE, SELECTION_MODE_GREEDY
from leyline.v1.trainer_pb2 import (
    ALPHA_SCHEDULE_SIGMOID,
    LEARNING_RATE_SCHEDULE_CONSTANT_THEN_COSINE,
    RunSpec,
)

EVERYTHING = """\
title: no                       # a text, whatever it looks like
host: {name: weak-cnn, channels: [8, 16], options: {blocks: 2}}
dataset: {name: digits, validationImages: 100}
training:
  horizon: 12
  schedule: constant-then-cosine
  weight_decay: 5e-4
  clip_norm: ~
  compile: true
growth: {alpha_schedule: ALPHA_SCHEDULE_SIGMOID, blueprints: {slot-0: conv1x1}}
policy:
  mode: greedy
  decision_timeout: 2.5s
  plan: {actions: [{step: 3, action_type: germinate, slot_id: slot-0}]}
seed: 18446744073709551615
seeds: {order: 0}
"""


EXAMPLES = Path(__file__).parents[2] / "examples" / "runs"


def spec_of(text: str) -> RunSpec:
    return Document.parse(text, "run.yaml").message(RunSpec)


def mistakes(text: str) -> list[str]:
    with pytest.raises(InvalidDocument) as caught:
        spec_of(text)
    return str(caught.value).splitlines()


def test_a_field_is_what_the_contract_says_however_its_value_looks() -> None:
    spec = spec_of(EVERYTHING)
    assert spec.title == "no"
    assert list(spec.host.channels) == [8, 16]
    assert spec.host.options["blocks"] == "2"
    assert spec.dataset.validation_images == 100
    assert spec.training.weight_decay == 5e-4
    assert spec.training.schedule == LEARNING_RATE_SCHEDULE_CONSTANT_THEN_COSINE
    assert spec.training.compile
    assert not spec.training.HasField("clip_norm")
    assert spec.growth.alpha_schedule == ALPHA_SCHEDULE_SIGMOID
    assert spec.policy.mode == SELECTION_MODE_GREEDY
    assert spec.policy.decision_timeout.ToMilliseconds() == 2500
    assert spec.policy.plan.actions[0].action_type == ACTION_TYPE_GERMINATE
    assert spec.seed == 2**64 - 1
    assert spec.seeds.HasField("order")


def test_what_is_written_is_read_as_the_same_message() -> None:
    spec = spec_of(EVERYTHING)
    assert spec_of(write(spec)) == spec
    assert write(RunSpec()) == "{}\n"
    assert spec_of("{}") == spec_of("") == RunSpec()


@pytest.mark.parametrize("character", ["\n", "\x85", "\u2028", "\u2029", "\ufeff", "\t", "'", '"'])
@pytest.mark.parametrize("text", ["{}", "{}  ", "  {}", "a {} b", "a{}{}b", "{} : #"])
def test_characters_that_yaml_might_fold_are_kept(character: str, text: str) -> None:
    spec = RunSpec(title=text.replace("{}", character))
    assert spec_of(write(spec)) == spec


words = st.text(max_size=20)
counts = st.integers(0, 65_536)


@given(
    title=words,
    options=st.dictionaries(words.filter(bool), words, max_size=3),
    channels=st.lists(st.integers(1, 65_536), max_size=4),
    batch_size=counts,
    rate=st.one_of(st.none(), st.floats(1e-300, 100)),
    seed=st.integers(0, 2**64 - 1),
    seconds=st.integers(0, 600 * 10**9),
    steps=st.sets(st.integers(0, 100), max_size=3),
)
def test_any_message_is_written_and_read_again_unchanged(
    title: str,
    options: dict[str, str],
    channels: list[int],
    batch_size: int,
    rate: float | None,
    seed: int,
    seconds: int,
    steps: set[int],
) -> None:
    spec = RunSpec(title=title, seed=seed)
    spec.host.channels.extend(channels)
    spec.host.options.update(options)
    spec.training.batch_size = batch_size
    if rate is not None:
        spec.training.learning_rate = rate
    spec.policy.plan.SetInParent()
    for step in steps:
        spec.policy.plan.actions.add(step=step, action_type=ACTION_TYPE_GERMINATE, slot_id="a")
    spec.policy.decision_timeout.FromNanoseconds(max(seconds, 1))
    assert spec_of(write(spec)) == spec


def test_json_as_protobuf_writes_it_is_yaml_too() -> None:
    spec = spec_of(EVERYTHING)
    spec.title = "tabs\tand 🌱"
    for text in (
        json_format.MessageToJson(spec),
        json_format.MessageToJson(spec, preserving_proto_field_name=True, ensure_ascii=False),
        json.dumps(json_format.MessageToDict(spec), indent="\t"),
    ):
        assert spec_of(text) == spec


def test_every_mistake_is_named_with_its_line_and_its_field() -> None:
    text = """\
dataset: {name: digits}
training:
  learning_rte: 0.1
  batch_size: many
  compile: 1
  horizon: -1
host:
  channels: 3
policy:
  mode: greedier
  decision_timeout: soon
  plan: {actions: [3]}
growth: none
seed: 1
seed: 2
"""
    assert mistakes(text) == [
        "run.yaml:3: training.learning_rte: there is no such field; did you mean learning_rate?",
        "run.yaml:4: training.batch_size: must be a whole number, and not 'many'",
        "run.yaml:5: training.compile: must be true or false, and not '1'",
        "run.yaml:6: training.horizon: must be a whole number from 0 to 4294967295, and not -1",
        "run.yaml:8: host.channels: must be a list: [...]",
        "run.yaml:10: policy.mode: must be sampled or greedy, and not 'greedier'",
        "run.yaml:11: policy.decision_timeout: must be seconds, as in 5s, and not 'soon'",
        "run.yaml:12: policy.plan.actions[0]: has fields of its own (step, action_type, slot_id),"
        " and is not '3'",
        "run.yaml:13: growth: has fields of its own (blueprints, blend_intervals, choice,"
        " candidates, alpha_schedule, planted, topology), and is not 'none'",
        "run.yaml:15: seed: is given twice",
    ]


def test_the_rules_of_the_contract_are_checked_and_named_with_their_line() -> None:
    text = """\
training:
  batch_size: 70000
policy:
  plan:
    actions:
    - {step: 1, action_type: wait}
    - step: 1
      action_type: germinate
"""
    assert mistakes(text) == [
        "run.yaml:2: training.batch_size: must be less than or equal to 65536",
        "run.yaml:4: policy.plan: a step has one action",
        "run.yaml:7: policy.plan.actions[1]: slot_id must be given exactly when the action is"
        " not WAIT",
    ]


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("title: [", "run.yaml:1: is not YAML: while parsing a flow node, expected the node"),
        ("- 1", "run.yaml:1: must be fields and their values"),
        ("digits", "run.yaml:1: must be fields and their values"),
        ("{}\n---\n{}", "run.yaml:2: is not YAML: expected a single document"),
        ("title: \x00", "run.yaml: is not YAML"),
        ("host: {slots: [a, {b: c}]}", "host.slots[1]: must be a text, and not fields"),
        ("growth: {blueprints: [a]}", "growth.blueprints: must be names and their values"),
        ("nonsense_entirely: 1", "there is no such field; there is title, host, dataset"),
    ],
)
def test_what_is_no_run_at_all_is_said(text: str, mistake: str) -> None:
    assert mistake in "\n".join(mistakes(text))


def changed(*changes: str, text: str = "title: old\ntraining:\n  horizon: 3\n") -> RunSpec:
    document = Document.parse(text, "run.yaml")
    for change in changes:
        document.change(change)
    return document.message(RunSpec)


@pytest.mark.parametrize(
    ("change", "path", "value"),
    [
        ("title=a: [b", "title", "a: [b"),
        ("title='x'", "title", "x"),
        ("training.horizon=5", "training.horizon", 5),
        ("training.learning_rate=1e-3", "training.learning_rate", 1e-3),
        ("policy.mode=greedy", "policy.mode", SELECTION_MODE_GREEDY),
        ("dataset.name=no", "dataset.name", "no"),
    ],
)
def test_a_change_sets_one_field(change: str, path: str, value: Any) -> None:
    found: Any = changed(change)
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value


def test_changes_reach_lists_names_and_whole_messages_and_the_last_one_counts() -> None:
    spec = changed(
        "host.channels=[1, 2]",
        "growth.blueprints.slot-1=norm",
        "policy.plan={}",
        "training={batch_size: 4}",
        "title=one",
        "title=two",
    )
    assert list(spec.host.channels) == [1, 2]
    assert spec.growth.blueprints["slot-1"] == "norm"
    assert spec.policy.HasField("plan")
    assert (spec.training.batch_size, spec.training.horizon, spec.title) == (4, 0, "two")


@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        ("training", "training: is not FIELD=VALUE"),
        ("=3", "=3: is not FIELD=VALUE"),
        ("title.x=3", "title.x: title has no fields"),
        ("speed=3", "speed: there is no such field"),
        ("training.batch_size=70000", "run.yaml: training.batch_size: must be less than"),
        ("training.horizon=x", "run.yaml: training.horizon: must be a whole number, and not 'x'"),
    ],
)
def test_a_change_that_cannot_be_is_named(change: str, mistake: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        changed(change)
    assert mistake in str(caught.value)


def test_a_document_is_read_from_a_file_and_from_the_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("title: file")
    assert Document.read(file).message(RunSpec).title == "file"
    monkeypatch.setattr("sys.stdin", io.StringIO("title: [input]"))
    with pytest.raises(InvalidDocument, match="standard input:1: title: must be a text"):
        Document.read(Path("-")).message(RunSpec)
    file.write_bytes(b"title: \xff")
    with pytest.raises(InvalidDocument, match="is not UTF-8"):
        Document.read(file)


def test_the_rules_are_those_that_a_service_checks() -> None:
    assert [rule.field for rule in violations(RunSpec(twin_run="?"))] == ["twin_run"]
    assert violations(spec_of(EVERYTHING)) == ()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_are_good(path: Path) -> None:
    assert violations(Document.read(path).message(RunSpec)) == ()
