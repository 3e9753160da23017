"""Files give back what was put into them, and say where they are damaged."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import minari  # type: ignore[import-untyped]
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.leyline.experience import BEGAN_S, made_episode

from leyline.client import Episode
from leyline.files import parquet, trajectory
from leyline.files.columns import OF_EPISODES, OF_STEPS, SCHEMA
from leyline.files.dataset import MinariExport, MinariSource
from leyline.files.error import FileRefused, NotExperience
from leyline.files.parquet import ParquetExport, ParquetSource
from leyline.files.source import Source
from leyline.files.specs import Specs
from leyline.observation import EXTENDED_SPEC, SEED_SPEC, fingerprint, vectorize
from leyline.v1.decision_pb2 import ACTION_TYPE_WAIT
from leyline.v1.observation_pb2 import ObservationSpec
from leyline.v1.transition_pb2 import (
    TERMINATION_ABANDONED,
    TERMINATION_CANCELLED,
    TERMINATION_FAILED,
    TERMINATION_HORIZON,
)
from simic.learning.reward import POINTS_A_UNIT, accuracy_delta

DOCUMENT = Path(__file__).parents[2] / "docs" / "experience-files.md"
TERMINATIONS = (
    None,
    TERMINATION_HORIZON,
    TERMINATION_CANCELLED,
    TERMINATION_FAILED,
    TERMINATION_ABANDONED,
)
NAME = "leyline/made-v0"


@pytest.fixture(autouse=True)
def _own_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


@st.composite
def experience(draw: st.DrawFn, least: int = 0) -> list[Episode]:
    """Some episodes of three slots, in the order in which a service reads them."""
    shapes = draw(st.lists(st.tuples(st.integers(least, 6), st.integers(0, 4)), min_size=1))
    seed = draw(st.integers(0, 2**32))
    return [
        made_episode(seed + index, steps, index=index, termination=TERMINATIONS[kind])
        for index, (steps, kind) in enumerate(shapes)
    ]


def write_parquet(path: Path, episodes: Iterable[Episode], specs: Specs | None = None) -> Path:
    with ParquetExport(path, specs or Specs()) as export:
        for episode in episodes:
            export.add(episode)
    return path


def write_minari(name: str, episodes: Iterable[Episode], specs: Specs | None = None) -> Path:
    with MinariExport(name, specs or Specs()) as export:
        for episode in episodes:
            export.add(episode)
    return export.path


def as_bytes(episodes: Iterable[Episode]) -> list[tuple[bytes, list[bytes], bytes | None]]:
    """Episodes as nothing but bytes."""
    return [
        (
            episode.head.SerializeToString(deterministic=True),
            [step.SerializeToString(deterministic=True) for step in episode.steps],
            episode.end and episode.end.SerializeToString(deterministic=True),
        )
        for episode in episodes
    ]


@given(experience())
@settings(max_examples=25, deadline=None)
def test_parquet_gives_back_every_byte_of_every_episode(
    tmp_path_factory: pytest.TempPathFactory, episodes: list[Episode]
) -> None:
    path = write_parquet(tmp_path_factory.mktemp("files") / "made.parquet", episodes)
    source = ParquetSource(path)
    assert source.total_steps == sum(len(episode.steps) for episode in episodes)
    # What has no row comes behind what has.
    expected = sorted(episodes, key=lambda episode: not episode.steps)
    assert as_bytes(source.episodes()) == as_bytes(expected)


@given(experience(least=1))
@settings(max_examples=25, deadline=None)
def test_minari_gives_back_every_byte_of_every_episode_with_steps(
    tmp_path_factory: pytest.TempPathFactory, episodes: list[Episode]
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("minari")))
        source = MinariSource(write_minari(NAME, episodes))
    assert source.total_steps == sum(len(episode.steps) for episode in episodes)
    assert as_bytes(source.episodes()) == as_bytes(episodes)


def test_an_episode_with_a_gap_is_in_parquet_and_not_in_minari(tmp_path: Path) -> None:
    whole, gap = made_episode(1, 3), made_episode(2, 3, index=1, termination=None)
    del gap.steps[1]
    path = write_parquet(tmp_path / "gap.parquet", [whole, gap])
    assert as_bytes(ParquetSource(path).episodes()) == as_bytes([whole, gap])
    with MinariExport(NAME, Specs()) as export:
        for episode in (whole, gap, made_episode(3, 0, index=2)):
            export.add(episode)
    assert (export.episodes, export.steps, export.left_out) == (1, 3, 2)
    assert as_bytes(MinariSource(export.path).episodes()) == as_bytes([whole])


def test_one_run_can_be_read_from_a_file(tmp_path: Path) -> None:
    episodes = [
        made_episode(seed, steps, run_id=run)
        for seed, (run, steps) in enumerate([("a", 2), ("b", 3), ("b", 0), ("c", 1)])
    ]
    sources: list[Source] = [ParquetSource(write_parquet(tmp_path / "runs.parquet", episodes))]
    sources.append(MinariSource(write_minari(NAME, episodes)))
    kept = [[len(episode.steps) for episode in source.episodes("b")] for source in sources]
    assert kept == [[3, 0], [3]]


def test_a_row_says_what_its_step_says(tmp_path: Path) -> None:
    episode = made_episode(11, 40, termination=TERMINATION_CANCELLED)
    episode.head.policy_version = "mlp-1"
    episode.head.origin.situation.range = "hard"
    episode.head.origin.situation.held_out = True
    episode.head.origin.twin.run_id, episode.head.origin.twin.episode_index = "twins", 4
    rows = pq.read_table(write_parquet(tmp_path / "made.parquet", [episode])).to_pylist()
    assert len(rows) == 40
    for row, step in zip(rows, episode.steps, strict=True):
        decision, facts = step.decision, step.facts
        assert (row["run_id"], row["episode_index"], row["step"]) == ("run", 0, step.step_id.step)
        assert (row["policy"], row["pinned_version"]) == (episode.head.policy, "mlp-1")
        assert (row["situation"], row["held_out"]) == ("hard", True)
        assert (row["twin_run_id"], row["twin_episode_index"]) == ("twins", 4)
        assert (row["termination"], row["episode_steps"]) == ("CANCELLED", 40)
        assert row["horizon"] == episode.head.horizon
        assert row["decider"] == ("POLICY" if decision.HasField("policy_version") else "FALLBACK")
        assert row["action_type"] in ("WAIT", "GERMINATE", "ADVANCE", "CULL")
        assert (row["slot_id"] is None) == (row["action_type"] == "WAIT")
        for name in ("policy_version", "type_log_prob", "slot_log_prob", "log_prob", "value"):
            given = getattr(decision, name) if decision.HasField(name) else None
            assert row[name] == given
        is_no_op = decision.slot_id == "nowhere"
        assert row["execution"] == ("NO_OP" if is_no_op else "EXECUTED")
        assert row["no_op_reason"] == ("UNKNOWN_SLOT" if is_no_op else None)
        assert (row["blueprint"] == "conv3x3") == step.execution.HasField("blueprint")
        for prefix, snapshot in (("", step.snapshot), ("next_", step.next_snapshot)):
            measured = snapshot.val_accuracy if snapshot.HasField("val_accuracy") else None
            assert row[f"{prefix}val_accuracy"] == measured
        assert [slot["depth"] for slot in row["slots"]] == [0, 1, 2]
        assert {slot["stage"] for slot in row["slots"]} <= {
            *("DORMANT", "GERMINATED", "TRAINING", "BLENDING", "FOSSILIZED")
        }
        assert row["parameters"] == (24_000 if step.HasField("facts") else None)
        spent = facts.multiply_adds_spent if facts.HasField("multiply_adds_spent") else None
        assert row["multiply_adds_spent"] == spent
        if step.HasField("facts"):
            assert row["duration_s"] == pytest.approx(facts.duration.ToMilliseconds() / 1000)
        assert row["completed_at"].timestamp() == pytest.approx(
            BEGAN_S + step.step_id.step + 0.123456, abs=1e-6
        )
        np.testing.assert_array_equal(row["observation"], vectorize(step.snapshot, SEED_SPEC))


def test_the_document_has_every_column_with_its_type_and_meaning() -> None:
    lines = [
        f"| `{field.name}` | {_type_name(field.type)} | {field.metadata[b'meaning'].decode()} |"
        for field in SCHEMA
    ]
    written = re.findall(r"^\| `\w+` \| .*\|$", DOCUMENT.read_text(), re.M)
    assert written[: len(lines)] == lines


def test_what_the_document_loads_in_python_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    episodes = [made_episode(seed, 9, index=seed) for seed in range(3)]
    write_parquet(Path("first.parquet"), episodes)
    write_minari("leyline/first-v0", episodes)
    blocks = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(), re.M | re.S)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    assert names["observations"].shape == (27, 48)
    assert names["log_probs"].shape == (27,)
    assert names["steps"] == [step for episode in episodes for step in episode.steps]
    assert names["dataset"].total_episodes == 3


def _type_name(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"list of {'struct' if pa.types.is_struct(kind.value_type) else kind.value_type}"
    return str(kind)


def test_memory_holds_one_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "STEPS_AT_ONCE", 3)
    monkeypatch.setattr(parquet, "ROWS_A_GROUP", 16)
    monkeypatch.setattr(parquet, "ROWS_A_READ", 5)
    episodes = [made_episode(seed, 7, index=seed) for seed in range(10)]
    path = write_parquet(tmp_path / "made.parquet", episodes)
    file = pq.ParquetFile(path).metadata
    groups = [file.row_group(group).num_rows for group in range(file.num_row_groups)]
    assert sum(groups) == 70
    assert max(groups) < 16 + 3
    assert as_bytes(ParquetSource(path).episodes()) == as_bytes(episodes)
    monkeypatch.setattr(parquet, "BYTES_A_GROUP", 1)
    path = write_parquet(tmp_path / "large.parquet", episodes)
    assert pq.ParquetFile(path).metadata.num_row_groups == 30


def test_minari_loads_a_data_set_by_its_name_and_iterates_it() -> None:
    episodes = [
        made_episode(seed, steps, index=seed, termination=termination)
        for seed, (steps, termination) in enumerate(
            [(5, TERMINATION_HORIZON), (3, TERMINATION_CANCELLED), (4, None)]
        )
    ]
    write_minari(NAME, episodes)
    assert list(minari.list_local_datasets()) == [NAME]
    loaded = minari.load_dataset(NAME)
    assert (len(loaded), loaded.total_steps) == (3, 12)
    assert loaded.env_spec is None
    assert loaded.observation_space.shape == (48,)
    assert loaded.action_space.n == 10
    for stored, episode in zip(loaded.iterate_episodes(), episodes, strict=True):
        steps = episode.steps
        assert len(stored) == len(steps)
        assert all(loaded.observation_space.contains(vector) for vector in stored.observations)
        assert all(loaded.action_space.contains(action) for action in stored.actions)
        snapshots = [steps[0].snapshot, *(step.next_snapshot for step in steps)]
        np.testing.assert_array_equal(
            stored.observations, [vectorize(snapshot, SEED_SPEC) for snapshot in snapshots]
        )
        for place, step in enumerate(steps):
            decision, infos = step.decision, stored.infos
            action = int(stored.actions[place])
            if decision.action_type == ACTION_TYPE_WAIT or decision.slot_id == "nowhere":
                assert action == 0
            else:
                kind, position = divmod(action - 1, 3)
                assert kind == decision.action_type - ACTION_TYPE_WAIT - 1
                assert decision.slot_id == f"slot-{position}"
            # As with Minari's own, what a step led to stands behind what a reset said.
            assert infos["policy_version"][place + 1].decode() == decision.policy_version
            is_no_op = decision.slot_id == "nowhere"
            assert infos["no_op_reason"][place + 1] == (b"UNKNOWN_SLOT" if is_no_op else b"")
            log_prob = decision.log_prob if decision.HasField("log_prob") else np.nan
            np.testing.assert_equal(infos["log_prob"][place + 1], log_prob)
        is_terminal = episode.end is not None and episode.end.termination == TERMINATION_HORIZON
        assert [*stored.terminations] == [False] * (len(steps) - 1) + [is_terminal]
        assert [*stored.truncations] == [False] * (len(steps) - 1) + [not is_terminal]
    [sampled] = loaded.sample_episodes(1)
    assert 0 <= sampled.id < 3


@given(experience(least=1))
@settings(max_examples=50, deadline=None)
def test_minari_s_rewards_are_simic_s_accuracy_delta_as_a_fraction(
    episodes: list[Episode],
) -> None:
    for episode in episodes:
        changes = trajectory.accuracy_changes(episode.steps)
        np.testing.assert_allclose(
            100 / POINTS_A_UNIT * changes, accuracy_delta(episode.steps), atol=1e-12
        )


@pytest.mark.parametrize("slots", [1, 5])
def test_a_data_set_has_the_spec_and_the_slots_of_its_episodes(slots: int) -> None:
    episodes = [made_episode(7, 30, slots=slots, spec=EXTENDED_SPEC)]
    write_minari(NAME, episodes)
    loaded = minari.load_dataset(NAME)
    assert loaded.observation_space.shape == (22 + 16 * slots,)
    assert loaded.action_space.n == 1 + 3 * slots
    assert all(map(loaded.observation_space.contains, loaded[0].observations))
    metadata = loaded.storage.metadata
    assert metadata["leyline"]["observation_spec"] == "extended"
    assert "change of validation accuracy" in metadata["description"]
    assert metadata["algorithm_name"] == episodes[0].head.policy
    [options] = loaded.storage.get_episode_metadata([0])
    assert options["options"]["run_id"] == "run"


def test_what_minari_makes_of_a_data_set_is_still_read_byte_for_byte() -> None:
    episodes = [made_episode(seed, 3 + seed, index=seed) for seed in range(4)]
    write_minari("leyline/one-v0", episodes[:3])
    write_minari("leyline/two-v0", episodes[3:])
    parts = [minari.load_dataset(f"leyline/{name}-v0") for name in ("one", "two")]
    combined = minari.combine_datasets(parts, "leyline/both-v0")
    source = MinariSource(Path(str(combined.storage.data_path)))
    assert as_bytes(source.episodes()) == as_bytes(episodes)


@pytest.mark.parametrize(
    "other",
    [made_episode(2, 2, index=1, slots=4), made_episode(2, 2, index=1, spec=EXTENDED_SPEC)],
    ids=["slots", "spec"],
)
def test_a_mixed_selection_is_refused_with_how_to_select(tmp_path: Path, other: Episode) -> None:
    with pytest.raises(FileRefused, match="--run, --version, --since or --until") as caught:
        write_minari(NAME, [made_episode(1, 2), other])
    assert "run run, episode 0 has 3 slots under the spec seed" in str(caught.value)
    assert "run run, episode 1 has" in str(caught.value)
    assert list((tmp_path / "minari").iterdir()) == []
    # Parquet takes both.
    write_parquet(tmp_path / "mixed.parquet", [made_episode(1, 2), other])


def test_a_spec_of_one_s_own_is_known_once_it_is_given(tmp_path: Path) -> None:
    own = ObservationSpec.FromString(SEED_SPEC.SerializeToString())
    own.name = "mine"
    own.global_features[0].scale = 5.0
    own.fingerprint = fingerprint(own)
    episode = made_episode(1, 2, spec=own)
    with pytest.raises(FileRefused, match="give it with --spec FILE"):
        write_minari(NAME, [episode])
    rows = pq.read_table(write_parquet(tmp_path / "unknown.parquet", [episode]))
    assert rows["observation"].to_pylist() == [None, None]
    assert as_bytes(ParquetSource(tmp_path / "unknown.parquet").episodes()) == as_bytes([episode])
    write_minari(NAME, [episode], Specs(own))
    loaded = minari.load_dataset(NAME)
    np.testing.assert_array_equal(
        loaded[0].observations[0], vectorize(episode.steps[0].snapshot, own)
    )
    known = pq.read_table(write_parquet(tmp_path / "known.parquet", [episode], Specs(own)))
    np.testing.assert_array_equal(
        known["observation"].to_pylist()[0], vectorize(episode.steps[0].snapshot, own)
    )
    metadata = pq.read_metadata(tmp_path / "known.parquet").metadata
    names = json.loads(metadata[b"leyline.observation_specs"])
    assert names == {own.fingerprint: "mine"}


def test_a_file_is_in_its_place_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "made.parquet"
    for broken in (_break_parquet, _break_minari):
        with pytest.raises(RuntimeError, match="interrupted"):
            broken(path)
        assert [file for file in tmp_path.rglob("*") if file.is_file()] == []
    # What a kill has left is written anew.
    (tmp_path / "made.parquet.part").write_bytes(b"half")
    (tmp_path / "minari" / ".leyline.made-v0.part" / "data").mkdir(parents=True)
    write_parquet(path, [made_episode(1, 2)])
    write_minari(NAME, [made_episode(1, 2)])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["made.parquet", "minari"]
    assert [file.name for file in (tmp_path / "minari").iterdir()] == ["leyline"]


def _break_parquet(path: Path) -> None:
    with ParquetExport(path, Specs()) as export:
        export.add(made_episode(1, 2))
        raise RuntimeError("interrupted")


def _break_minari(path: Path) -> None:
    with MinariExport(NAME, Specs()) as export:
        export.add(made_episode(1, 2))
        raise RuntimeError("interrupted")


def test_what_is_there_already_is_not_replaced(tmp_path: Path) -> None:
    episodes = [made_episode(1, 2)]
    path = write_parquet(tmp_path / "made.parquet", episodes)
    folder = write_minari(NAME, episodes)
    with pytest.raises(FileRefused, match="is there already: remove it"):
        write_parquet(path, episodes)
    with pytest.raises(FileRefused, match="is there already: remove it"):
        write_minari(NAME, episodes)
    assert as_bytes(ParquetSource(path).episodes()) == as_bytes(episodes)
    assert as_bytes(MinariSource(folder).episodes()) == as_bytes(episodes)


@pytest.mark.parametrize("name", ["experience.csv", "no version", "a/b/../c-v0", "x-v"])
def test_a_name_of_neither_form_is_refused(name: str) -> None:
    with pytest.raises(FileRefused, match=r"neither NAME.parquet nor .* leyline/first-v0"):
        MinariExport(name, Specs())


def test_nothing_is_written_of_no_episode(tmp_path: Path) -> None:
    with pytest.raises(FileRefused, match="leyline experience stats"):
        write_parquet(tmp_path / "none.parquet", [])
    with pytest.raises(FileRefused, match="leyline experience stats"):
        write_minari(NAME, [made_episode(1, 0)])
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_parquet_file_that_is_damaged_says_in_which_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "ROWS_A_GROUP", 8)
    episodes = [made_episode(seed, 4, index=seed) for seed in range(6)]
    path = write_parquet(tmp_path / "made.parquet", episodes)
    group = pq.read_metadata(path).row_group(1)
    columns = [group.column(place) for place in range(group.num_columns)]
    [column] = [column for column in columns if column.path_in_schema == "transition"]
    flip(path, column.data_page_offset + column.total_compressed_size // 2)
    read: list[Episode] = []
    with pytest.raises(NotExperience, match="rows 8 to 15 are damaged") as caught:
        read.extend(ParquetSource(path).episodes())
    assert str(path) in str(caught.value)
    assert as_bytes(read) == as_bytes(episodes[:1])


Damage = Callable[[Path], None]


def _other_columns(path: Path) -> None:
    pq.write_table(pa.table({"transition": [b""], "reward": [1.0]}), path)


def _no_message(path: Path) -> None:
    table = pq.read_table(path)
    place = table.schema.get_field_index("transition")
    values = table["transition"].to_pylist()
    values[1] = b"\xff\xff"
    pq.write_table(table.set_column(place, "transition", pa.array(values)), path)


def _no_value(path: Path) -> None:
    table = pq.read_table(path)
    place = table.schema.get_field_index("episode_head")
    pq.write_table(table.set_column(place, "episode_head", pa.nulls(len(table), pa.binary())), path)


def _other_step(path: Path) -> None:
    table = pq.read_table(path)
    step = made_episode(5, 1, run_id="else").steps[0].SerializeToString()
    place = table.schema.get_field_index("transition")
    values = [*table["transition"].to_pylist()[:1], step]
    pq.write_table(table.set_column(place, "transition", pa.array(values)), path)


def _later_format(path: Path) -> None:
    table = pq.read_table(path)
    metadata = {**table.schema.metadata, b"leyline.format_version": b"2"}
    pq.write_table(table.replace_schema_metadata(metadata), path)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncate, "it is no whole Parquet file"),
        (lambda path: path.write_text("run,step\n"), "it is no whole Parquet file"),
        (lambda path: path.write_bytes(b""), "it is no whole Parquet file"),
        (_other_columns, "it has no column episode_head and no episode_end"),
        (_no_message, "row 1, column transition holds no Transition"),
        (_no_value, "row 0, column episode_head holds no EpisodeHead"),
        (_other_step, "row 1 has a step of run else, episode 0"),
        (_later_format, "it has format 2, and this release reads 1"),
    ],
)
def test_a_file_that_is_no_experience_says_what_is_wrong_and_where(
    tmp_path: Path, damage: Damage, said: str
) -> None:
    path = write_parquet(tmp_path / "made.parquet", [made_episode(1, 2)])
    damage(path)
    with pytest.raises(NotExperience, match=re.escape(said)) as caught:
        list(ParquetSource(path).episodes())
    assert str(path) in str(caught.value)


def test_a_file_that_another_program_wrote_again_is_still_read(tmp_path: Path) -> None:
    episodes = [made_episode(seed, 3, index=seed) for seed in range(3)]
    path = write_parquet(tmp_path / "made.parquet", episodes)
    table = pq.read_table(path, columns=["step", "transition", "episode_end", "episode_head"])
    pq.write_table(table.replace_schema_metadata(None), path, compression="snappy")
    assert as_bytes(ParquetSource(path).episodes()) == as_bytes(episodes)


def _hdf5(folder: Path) -> Path:
    return folder / "data" / "main_data.hdf5"


def _foreign(folder: Path) -> None:
    with h5py.File(_hdf5(folder), "a") as file:
        del file["episode_1/infos/record"]


def _missing_episode(folder: Path) -> None:
    with h5py.File(_hdf5(folder), "a") as file:
        del file["episode_1"]


def _set_record(folder: Path, change: Callable[[bytes], bytes]) -> None:
    with h5py.File(_hdf5(folder), "a") as file:
        record = file["episode_1/infos/record"]
        record[2] = change(record[2])


def _swapped(text: bytes) -> bytes:
    half = len(text) // 2
    return text[:half] + (b"A" if text[half : half + 1] != b"A" else b"B") + text[half + 1 :]


def _later_data_set(folder: Path) -> None:
    file = folder / "data" / "metadata.json"
    metadata = json.loads(file.read_text())
    metadata["leyline"]["format_version"] = "2"
    file.write_text(json.dumps(metadata))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: truncate(_hdf5(folder)), "episode 0 is damaged"),
        (lambda folder: _hdf5(folder).unlink(), "it is no data set of Minari"),
        (lambda folder: truncate(folder / "data" / "metadata.json"), "it is no data set of Minari"),
        (shutil.rmtree, "it is no data set of Minari"),
        (_foreign, "episode 1 has no info record; it is not what `leyline experience export`"),
        (_missing_episode, "episode 1 is damaged"),
        (lambda folder: _set_record(folder, _swapped), "episode 1, record 2 is damaged"),
        (lambda folder: _set_record(folder, lambda text: b"?"), "episode 1, record 2 is damaged"),
        (_later_data_set, "it has format 2, and this release reads 1"),
    ],
)
def test_a_data_set_that_is_damaged_or_another_s_says_what_is_wrong_and_where(
    damage: Damage, said: str
) -> None:
    folder = write_minari(NAME, [made_episode(1, 2), made_episode(2, 3, index=1)])
    damage(folder)
    with pytest.raises(NotExperience, match=re.escape(said)) as caught:
        list(MinariSource(folder).episodes())
    assert str(folder) in str(caught.value)


def test_columns_have_distinct_names_and_say_what_they_mean() -> None:
    assert len(set(SCHEMA.names)) == len(OF_EPISODES) + len(OF_STEPS) + 1
    assert all(field.metadata[b"meaning"] for field in SCHEMA)
