"""Experience moves from one Simic to another in a file, once, and nothing is lost on the way."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import signal
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from structlog.testing import capture_logs
from tests.leyline.conftest import COMMAND
from tests.leyline.experience import begin, items, made_episode
from tests.simic.running import Client, eventually, running

from leyline import document
from leyline.cli import main
from leyline.client import Episode, Experience
from leyline.client.episodes import EpisodeKey
from leyline.files import importing
from leyline.files.importing import Importer
from leyline.files.parquet import ParquetExport
from leyline.files.specs import Specs
from leyline.observation import SEED_SPEC, fingerprint
from leyline.v1.experience_pb2 import (
    GetIngestCursorRequest,
    GetIngestCursorResponse,
    GetStatisticsRequest,
    ReadEpisodesRequest,
    RecordTransitionsRequest,
)
from leyline.v1.observation_pb2 import ObservationSpec
from leyline.v1.transition_pb2 import TERMINATION_CANCELLED, TERMINATION_FAILED

NOBODY = "127.0.0.1:1"


@dataclass
class Desk:
    """A Simic, and somebody at a command line."""

    client: Client
    address: str
    capsys: pytest.CaptureFixture[str]

    async def store(self, *episodes: Episode, follows_registry: bool = False) -> None:
        """Record episodes as a trainer does."""
        for episode in episodes:
            request = begin(episode, follows_registry=follows_registry)
            begun = await self.client.experience.BeginEpisode(request)
            if recorded := items(episode, begun.fence):
                message = RecordTransitionsRequest(items=recorded)
                answer = await self.client.experience.RecordTransitions(message)
                assert not answer.rejected

    async def stored(self) -> list[Episode]:
        """All that is stored, but for when it began, which is the service's to say."""
        async with Experience(self.address) as experience:
            episodes = [episode async for episode in experience.episodes(ReadEpisodesRequest())]
        for episode in episodes:
            episode.head.ClearField("began_at")
        return episodes

    async def cursor(self, run_id: str, index: int) -> GetIngestCursorResponse:
        """How much of an episode is stored, and its fence."""
        request = GetIngestCursorRequest(run_id=run_id, episode_index=index)
        return await self.client.experience.GetIngestCursor(request)

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run `leyline experience`: its exit code, and what it said."""
        self.capsys.readouterr()
        command = ["experience", *arguments, "--simic", self.address]
        code = await asyncio.to_thread(main, command)
        said = self.capsys.readouterr()
        return code, said.out, said.err

    async def asks(self, *arguments: str, code: int = 0) -> Any:
        """Run `leyline experience`, and return what it says as JSON."""
        ended, out, err = await self.run(*arguments, "--json")
        assert (ended, err) == (code, "")
        return json.loads(out)


@asynccontextmanager
async def desk(directory: Path, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Desk]:
    # Its log would stand among what the commands say.
    async with running(directory) as client:
        with capture_logs():
            yield Desk(client, (directory / "address").read_text().strip(), capsys)


@pytest.fixture
async def here(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Desk]:
    async with desk(tmp_path_factory.mktemp("here"), capsys) as one:
        yield one


@pytest.fixture
async def there(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Desk]:
    async with desk(tmp_path_factory.mktemp("there"), capsys) as one:
        yield one


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def several() -> list[Episode]:
    """Two runs, episodes that ended in three ways, and one that goes on."""
    return [
        made_episode(1, 5, run_id="a", index=0),
        made_episode(2, 3, run_id="a", index=1, termination=TERMINATION_CANCELLED),
        made_episode(3, 4, run_id="a", index=7, termination=None),
        made_episode(4, 6, run_id="b", index=0, versions=("v-1", "v-2")),
    ]


def said(episodes: Iterable[Episode]) -> list[tuple[bytes, list[bytes], bytes | None]]:
    """Episodes as nothing but bytes."""
    return [
        (
            episode.head.SerializeToString(deterministic=True),
            [step.SerializeToString(deterministic=True) for step in episode.steps],
            episode.end and episode.end.SerializeToString(deterministic=True),
        )
        for episode in episodes
    ]


@pytest.mark.parametrize("file", ["all.parquet", "leyline/all-v0"])
async def test_what_one_simic_has_another_has_after_a_file(
    here: Desk, there: Desk, file: str
) -> None:
    await here.store(*several())
    written = await here.asks("export", file)
    assert (written["episodes"], written["steps"], written["left_out"]) == (4, 18, 0)
    assert written["format"] == ("parquet" if file.endswith(".parquet") else "minari")
    read = await there.asks("import", file)
    assert read == {"dry_run": False, "imported": 4, "known": 0, "steps": 18, "refused": []}
    assert said(await there.stored()) == said(await here.stored())
    # And back: everything is known there, and no fence has moved.
    assert (await here.asks("import", file))["known"] == 4
    assert {(await here.cursor(*each.key)).fence for each in several()} == {1}


async def test_an_episode_without_steps_moves_with_its_end_in_parquet(
    here: Desk, there: Desk
) -> None:
    episodes = [
        made_episode(1, 2),
        made_episode(2, 0, index=1, termination=TERMINATION_FAILED),
        made_episode(3, 0, index=2, termination=None),
    ]
    await here.store(*episodes)
    await here.asks("export", "all.parquet")
    await there.asks("import", "all.parquet")
    assert said(await there.stored()) == said(await here.stored())
    code, out, _ = await here.run("export", "leyline/all-v0")
    assert code == 0
    assert "left out: 2 episodes without steps" in out


async def test_importing_twice_changes_nothing(here: Desk, there: Desk) -> None:
    await here.store(*several())
    await here.asks("export", "all.parquet")
    await there.asks("import", "all.parquet")
    first = said(await there.stored())
    cursors = [await there.cursor(*each.key) for each in several()]
    again = await there.asks("import", "all.parquet")
    assert (again["imported"], again["known"], again["steps"]) == (0, 4, 0)
    assert said(await there.stored()) == first
    assert [await there.cursor(*each.key) for each in several()] == cursors


async def test_a_dry_run_says_what_an_import_would_do_and_does_nothing(
    here: Desk, there: Desk
) -> None:
    await here.store(*several())
    await here.asks("export", "all.parquet")
    await there.store(several()[1])
    before = said(await there.stored())
    told = await there.asks("import", "all.parquet", "--dry-run")
    assert told == {"dry_run": True, "imported": 3, "known": 1, "steps": 15, "refused": []}
    assert said(await there.stored()) == before
    done = await there.asks("import", "all.parquet")
    assert done == {**told, "dry_run": False}


async def test_an_episode_with_another_content_stays_as_it_is_and_the_others_are_imported(
    here: Desk, there: Desk
) -> None:
    mine, other = several(), several()
    other[0].steps[3].next_snapshot.val_accuracy = 0.123
    other[1] = made_episode(2, 2, run_id="a", index=1, termination=TERMINATION_FAILED)
    other[1].steps[:] = several()[1].steps[:2]
    await here.store(*mine)
    await there.store(*other[:2])
    await here.asks("export", "all.parquet")
    report = await there.asks("import", "all.parquet", code=1)
    assert (report["imported"], report["known"], report["steps"]) == (2, 0, 10)
    first, second = report["refused"]
    assert (first["run_id"], first["episode_index"]) == ("a", 0)
    assert first["reason"] == "TRANSITION_CONFLICT"
    assert first["message"] == "step 3 is stored with another content"
    assert (second["episode_index"], second["reason"]) == (1, "EPISODE_ENDED")
    assert second["message"] == (
        "it is stored as ended FAILED after 2 steps, and in the file it ended CANCELLED after 3 "
        "steps"
    )
    stored = await there.stored()
    assert said(stored[:2]) != said(mine[:2])
    assert [episode.steps for episode in stored[:2]] == [episode.steps for episode in other[:2]]
    assert [episode.key for episode in stored] == [episode.key for episode in mine]
    assert {(await there.cursor(*each.key)).fence for each in mine[:2]} == {1}
    code, out, _ = await there.run("import", "all.parquet")
    assert code == 1
    assert "step 3 is stored with another content" in out


async def test_an_episode_that_another_trainer_plays_keeps_its_fence(
    here: Desk, there: Desk
) -> None:
    mine = made_episode(1, 4)
    theirs = made_episode(1, 0, termination=None)
    theirs.head.CopyFrom(mine.head)
    theirs.head.horizon += 1
    await here.store(mine)
    await here.asks("export", "all.parquet")
    await there.store(theirs)
    [refused] = (await there.asks("import", "all.parquet", code=1))["refused"]
    assert refused["reason"] == "EPISODE_CONFLICT"
    assert "goes on there, with another horizon" in refused["message"]
    assert (await there.cursor("run", 0)).fence == 1


async def test_what_an_import_that_broke_off_has_left_is_completed(here: Desk, there: Desk) -> None:
    episodes = several()
    await here.store(*episodes)
    await here.asks("export", "all.parquet")
    # Of the last one it had sent a part.
    parts = [episodes[0], Episode(episodes[3].head, episodes[3].steps[:2])]
    async with Experience(there.address) as experience:
        importer = Importer(experience)
        for part in parts:
            await importer.take(part)
        await importer.finish()
    report = await there.asks("import", "all.parquet")
    assert (report["imported"], report["known"], report["steps"]) == (3, 1, 11)
    assert said(await there.stored()) == said(await here.stored())


async def test_an_import_that_is_killed_is_completed_by_the_next(there: Desk) -> None:
    episodes = [made_episode(seed, 24, index=seed) for seed in range(30)]
    with ParquetExport(Path("large.parquet"), Specs()) as export:
        for episode in episodes:
            export.add(episode)
    arguments = ("experience", "import", "large.parquet", "--simic", there.address)
    killed = await asyncio.create_subprocess_exec(*COMMAND, *arguments)
    ended = asyncio.create_task(killed.wait())

    async def has_some() -> bool:
        answer = await there.client.experience.GetStatistics(GetStatisticsRequest())
        return answer.transitions > 0 or ended.done()

    await eventually(has_some)
    if not ended.done():
        killed.kill()
    assert await ended in (0, -signal.SIGKILL)
    report = await there.asks("import", "large.parquet")
    assert report["imported"] + report["known"] == 30
    assert said(await there.stored()) == said(map(_undated, episodes))


async def test_an_episode_that_was_exported_while_it_went_on_is_completed_by_a_later_export(
    here: Desk, there: Desk
) -> None:
    whole = made_episode(1, 6)
    await here.store(Episode(whole.head, whole.steps[:4]))
    await here.asks("export", "early.parquet")
    await there.asks("import", "early.parquet")
    await here.store(whole)
    await here.asks("export", "late.parquet")
    report = await there.asks("import", "late.parquet")
    assert (report["imported"], report["steps"]) == (1, 2)
    # An older file says nothing against it.
    assert (await there.asks("import", "early.parquet"))["known"] == 1
    assert said(await there.stored()) == said(await here.stored())


async def test_messages_stay_below_what_a_service_takes(
    here: Desk, there: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = made_episode(1, 40)
    for step in large.steps:
        step.facts.validation_correct = bytes(131_072)
    async with Experience(there.address) as experience:
        importer = Importer(experience)
        await importer.take(large)
        await importer.finish()
    assert importer.report.steps == 40
    monkeypatch.setattr(importing, "ITEMS_A_MESSAGE", 7)
    small = made_episode(2, 40, index=1)
    async with Experience(there.address) as experience:
        importer = Importer(experience)
        await importer.take(small)
        await importer.finish()
    assert said(await there.stored()) == said([_undated(large), _undated(small)])


def _undated(episode: Episode) -> Episode:
    episode.head.ClearField("began_at")
    return episode


async def test_an_item_that_the_service_refuses_is_told_with_its_rule(there: Desk) -> None:
    bad, good = made_episode(1, 3), made_episode(2, 3, index=1)
    bad.steps[1].snapshot.slots[0].alpha = 7
    wrong = made_episode(3, 3, index=2)
    wrong.head.ClearField("mode")
    async with Experience(there.address) as experience:
        importer = Importer(experience)
        for episode in (bad, good, wrong):
            await importer.take(episode)
        await importer.finish()
    report = importer.report
    assert (report.imported, report.steps) == (1, 5)
    keys = {(refusal.run_id, refusal.episode_index) for refusal in report.refused}
    assert keys == {("run", 0), ("run", 2)}
    told = {refusal.episode_index: refusal.message for refusal in report.refused}
    assert "transition.snapshot.slots[0].alpha" in told[0]
    assert "mode" in told[2]


async def test_one_episode_in_two_places_of_a_file_is_put_together(here: Desk, there: Desk) -> None:
    episodes = [made_episode(1, 4), made_episode(2, 4, index=1)]
    await here.store(*episodes)
    await here.asks("export", "all.parquet")
    table = pq.read_table("all.parquet")
    order = [0, 1, 4, 5, 2, 3, 6, 7]
    pq.write_table(table.take(pa.array(order)), "shuffled.parquet")
    report = await there.asks("import", "shuffled.parquet")
    assert report["steps"] == 8
    assert said(await there.stored()) == said(await here.stored())


async def test_an_import_gives_a_run_another_name(here: Desk, there: Desk) -> None:
    await here.store(*several())
    await here.asks("export", "all.parquet")
    await there.store(made_episode(9, 3, run_id="a"))
    done = await there.asks("import", "all.parquet", "--run", "a", "--as", "a.of-the-laptop")
    assert (done["imported"], done["steps"]) == (3, 12)
    stored = [each for each in await there.stored() if each.head.run_id == "a.of-the-laptop"]
    assert [each.head.episode_index for each in stored] == [0, 1, 7]
    named = {step.next_snapshot.step_id.run_id for each in stored for step in each.steps}
    assert named == {"a.of-the-laptop"}
    assert (await there.asks("import", "all.parquet", "--run", "b"))["imported"] == 1
    code, _, err = await there.run("import", "all.parquet", "--run", "zzz")
    assert (code, err) == (1, "leyline: the file has no run 'zzz'\n")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--run", "a"], [("a", 0), ("a", 1), ("a", 7)]),
        (["--ended"], [("a", 0), ("a", 1), ("b", 0)]),
        (["--version", "v-2"], [("b", 0)]),
        (["--since", "2020-01-01", "--until", "2100-01-01T00:00:00"], None),
    ],
)
async def test_options_select_whole_episodes(
    here: Desk, options: Sequence[str], expected: list[EpisodeKey] | None
) -> None:
    episodes = several()
    await here.store(*episodes)
    await here.asks("export", "some.parquet", *options)
    rows = pq.read_table("some.parquet", columns=["run_id", "episode_index"]).to_pylist()
    found = [(row["run_id"], row["episode_index"]) for row in rows]
    kept = [each for each in episodes if expected is None or each.key in expected]
    assert found == [each.key for each in kept for _ in each.steps]


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_an_export_knows_the_time_of_an_episode(here: Desk, tmp_path: Path) -> None:
    await here.store(made_episode(1, 2))
    code, _, err = await here.run("export", "none.parquet", "--until", "2020-01-01")
    assert code == 1
    assert "none.parquet was not written: there is no such episode" in err
    assert names(tmp_path) == []


async def test_a_damaged_file_says_how_much_of_it_is_stored(here: Desk, there: Desk) -> None:
    await here.store(*several())
    await here.asks("export", "all.parquet")
    table = pq.read_table("all.parquet")
    values = table["transition"].to_pylist()
    values[9] = b"\xff"
    place = table.schema.get_field_index("transition")
    damaged = table.set_column(place, "transition", pa.array(values))
    pq.write_table(damaged, "damaged.parquet")
    code, _, err = await there.run("import", "damaged.parquet")
    assert code == 1
    assert err == (
        "leyline: damaged.parquet cannot be read as experience: row 9, column transition holds no "
        "Transition; 2 episodes before that are stored\n"
    )
    stored = said(await there.stored())
    assert stored == said((await here.stored())[:2])
    code, _, err = await there.run("import", "damaged.parquet", "--dry-run")
    assert "2 episodes before that could be stored" in err
    assert said(await there.stored()) == stored
    await there.asks("import", "all.parquet")
    assert said(await there.stored()) == said(await here.stored())


def spec_in_a_file(name: str) -> ObservationSpec:
    own = ObservationSpec.FromString(SEED_SPEC.SerializeToString())
    own.name = "mine"
    own.global_features[0].scale = 5.0
    own.fingerprint = fingerprint(own)
    Path(name).write_text(document.write(own))
    return own


async def test_a_spec_of_one_s_own_comes_from_a_file(here: Desk) -> None:
    own = spec_in_a_file("mine.yaml")
    await here.store(made_episode(1, 3, spec=own))
    code, _, err = await here.run("export", "leyline/mine-v0")
    assert (code, "give it with --spec FILE" in err) == (1, True)
    await here.asks("export", "leyline/mine-v0", "--spec", "mine.yaml")
    code, _, err = await here.run("export", "leyline/other-v0", "--spec", "nowhere.yaml")
    assert (code, "neither a file nor one of" in " ".join(err.split())) == (2, True)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 1) -> str:
    """What a command says that nobody has to be asked for."""
    assert main(["experience", *arguments, "--simic", NOBODY]) == code
    return " ".join(capsys.readouterr().err.split())


def test_what_cannot_be_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("table.csv").write_text("a,b\n")
    assert "none.parquet: No such file" in refusal(capsys, "import", "none.parquet")
    assert "there is no folder nowhere: make it" in refusal(capsys, "import", "nowhere/a.parquet")
    assert "cannot be read as experience: it is no data set of Minari" in refusal(
        capsys, "import", "leyline/none-v0"
    )
    assert "neither NAME.parquet nor a data set's name" in refusal(capsys, "import", "none")
    assert "it is no whole Parquet file" in refusal(capsys, "import", "table.csv")
    assert "no service answers at 127.0.0.1:1" in refusal(capsys, "export", "all.parquet")
    assert "neither NAME.parquet nor a data set's name" in refusal(capsys, "export", "all.csv")
    needs_run = refusal(capsys, "import", "table.csv", "--as", "other", code=2)
    assert "say which with --run" in needs_run
    bad_name = refusal(capsys, "import", "table.csv", "--run", "a", "--as", "no spaces", code=2)
    assert "names no run" in bad_name


@pytest.mark.parametrize("command", ["export", "import"])
def test_the_extra_that_is_missing_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    installed = importlib.metadata.version

    def without_minari(distribution: str) -> str:
        if distribution == "minari":
            raise importlib.metadata.PackageNotFoundError(distribution)
        return installed(distribution)

    monkeypatch.setattr(importlib.metadata, "version", without_minari)
    assert "pip install 'leyline-growth[files]'" in refusal(capsys, command, "all.parquet")
