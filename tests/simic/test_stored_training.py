"""Learning from what is stored, whoever decided it; and what is told of each update."""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tensorboardX.proto.event_pb2 import Event
from tests.simic.episodes import Script, played
from tests.simic.school import School

from leyline.v1.decision_pb2 import ActionType
from leyline.v1.learner_pb2 import TrainingState
from leyline.v1.transition_pb2 import Transition
from simic.database.database import Database
from simic.learning import reward
from simic.learning.learner import Learner
from simic.learning.lesson import Lessons
from simic.policies.registry import PolicyRegistry

COMPLETED = TrainingState.TRAINING_STATE_COMPLETED
STORED = {"experience": "stored", "max_updates": 2, "preset": "demo"}


@pytest.fixture
def school(database: Database, tmp_path: Path) -> School:
    return School(database, tmp_path)


def growing(action: ActionType.ValueType, _slot: int | None) -> float:
    """Germinating gains two points of accuracy."""
    return 0.02 if action == ActionType.ACTION_TYPE_GERMINATE else 0.0


def somebodys(index: int, run: str = "somebody") -> Script:
    return played("their-policy-1", index, horizon=6, gain=growing, run=run)


@pytest.mark.parametrize("algorithm", ["awr", "ddqn", "ppo"])
def test_any_algorithm_learns_from_what_somebody_else_decided(
    school: School, algorithm: str
) -> None:
    for index in range(6):
        school.play(somebodys(index))
    training = school.learn("t", algorithm=algorithm, episodes_per_update=4, **STORED)
    assert (training.state, training.updates) == (COMPLETED, 2)
    first, second = school.updates("t")
    assert first.gradient_steps > 0
    assert first.policy_version != second.policy_version == training.policy_version


def test_an_online_training_goes_on_from_what_was_learned_offline(
    school: School, registry: PolicyRegistry
) -> None:
    for index in range(4):
        school.play(somebodys(index))
    warm = school.learn("warm", algorithm="awr", **STORED).policy_version
    for index in range(4):
        school.play(played(warm, index, horizon=6, gain=growing))
    training = school.learn("on", initial_version=warm, preset="demo", max_updates=1)
    assert (training.state, training.updates) == (COMPLETED, 1)
    assert registry.get(training.policy_version).manifest.parent_version == warm


@pytest.mark.parametrize(
    ("experience", "words"),
    [
        ("online", "waits for episodes that its own versions decide"),
        ("stored", "takes its episodes from what is stored"),
    ],
)
def test_a_training_says_which_episodes_it_learns_from(
    school: School, experience: str, words: str
) -> None:
    school.trainings.start("t", school.plan(**{**STORED, "experience": experience}))
    Learner(school.database, "t", school.folder)
    assert school.trainings.get("t").status_message == words


def test_held_out_situations_teach_nothing_stored_or_not(school: School) -> None:
    for index in range(4):
        school.play(somebodys(index), held_out=True)
    school.play(somebodys(4))
    training = school.learn("t", algorithm="awr", **STORED)
    assert training.state == COMPLETED
    assert [update.episodes for update in school.updates("t")] == [1, 1]


ENDS = EntryPoint("ends", "tests.simic.test_stored_training:ends", reward.GROUP)


def ends(steps: Sequence[Transition]) -> NDArray[np.float64]:
    """The accuracy at the end, as a fraction."""
    return np.array([0.0] * (len(steps) - 1) + [steps[-1].next_snapshot.val_accuracy])


def test_the_same_experience_is_paid_for_in_another_way_without_a_new_epoch(
    school: School, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = [somebodys(index) for index in range(4)]
    for script in scripts:
        school.play(script)
    plan = {**STORED, "algorithm": "awr", "episodes_per_update": 4}
    school.learn("delta", reward="accuracy-delta", **plan)
    monkeypatch.setattr(reward, "entry_points", lambda group: EntryPoints([ENDS]))
    school.learn("ends", reward="ends", **plan)
    last = [script.accuracies[-1] for script in scripts]
    gains = [script.accuracies[-1] - script.accuracies[0] for script in scripts]
    [of_gains, _], [of_ends, _] = school.updates("delta"), school.updates("ends")
    assert of_gains.mean_return == pytest.approx(10 * sum(gains) / len(gains))
    assert of_ends.mean_return == pytest.approx(sum(last) / len(last))


def test_an_episode_is_learned_from_once_its_twin_is_whole_and_less_what_that_one_gained(
    school: School,
) -> None:
    plan = {"preset": "demo", "minus_twin": True, "max_updates": 1}
    first = school.begin("first", **plan)
    twins = [Script(run="twins", index=index, version=None) for index in range(2)]
    own = [
        Script(run="own", index=index, version=first, accuracies=(0.1, 0.2, 0.3, 0.5))
        for index in range(2)
    ]
    for script, twin in zip(own, twins, strict=True):
        school.play(script, twin=twin)
    school.trainings.start("t", school.plan(**plan))
    learner = Learner(school.database, "t", school.folder)
    assert Lessons(school.database, "t").fresh() is None
    for twin in twins:
        school.play(twin)
    learner.run()
    [update] = school.updates("t")
    assert update.mean_return == pytest.approx(10 * (0.4 - 0.3))


def waiting(version: str, index: int) -> Script:
    return Script(index=index, version=version, actions=[(ActionType.ACTION_TYPE_WAIT, None)])


def test_a_batch_that_only_waits_raises_the_alarm_and_says_so_to_whoever_watches(
    school: School,
) -> None:
    plan = {"preset": "demo", "max_updates": 1}
    first = school.begin("first", **plan)
    for index in range(2):
        school.play(waiting(first, index))
    school.learn("t", **plan)
    [update] = school.updates("t")
    assert update.diagnostics["wait_share"] == 1.0
    [alarm] = update.alarms
    assert alarm.startswith("100% of the batch's decisions were to wait: the policy has probably")


def test_an_update_tells_what_judges_a_training(school: School) -> None:
    plan = {"preset": "demo", "max_updates": 1}
    first = school.begin("first", **plan)
    for index in range(2):
        school.play(played(first, index, horizon=8, gain=growing))
    school.learn("t", **plan)
    [update] = school.updates("t")
    told = update.diagnostics
    assert {"explained_variance", "kl", "clip_fraction", "entropy_type", "entropy_slot"} <= set(
        told
    )
    shares = [f"{name}_share" for name in ("wait", "germinate", "advance", "cull")]
    assert sum(told[name] for name in shares) == pytest.approx(1.0)
    assert (told["no_op_rate"], told["no_op_rate_dormant"], told["staleness"]) == (0.0, 0.0, 0.0)
    assert not update.alarms


def points(folder: Path) -> dict[str, dict[int, float]]:
    """The scalars that TensorBoard would show: by name, by step."""
    found: dict[str, dict[int, float]] = {}
    for file in sorted(folder.glob("events.out.tfevents.*")):
        for event in _events(file.read_bytes()):
            if event.HasField("session_log"):
                # A restart: what was written of these steps before counts no more.
                found = {
                    name: {step: value for step, value in of.items() if step < event.step}
                    for name, of in found.items()
                }
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def _events(data: bytes) -> Sequence[Event]:
    """The records of an event file: length, its checksum, an event, its checksum."""
    events, place = [], 0
    while place + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        if place + 16 + length > len(data):
            break  # it is being written
        events.append(Event.FromString(data[place + 12 : place + 12 + length]))
        place += 16 + length
    return events


def written(folder: Path, name: str, count: int) -> dict[int, float]:
    """The points of one curve, once there are so many: they are written in a thread, by and by."""
    deadline = time.monotonic() + 60
    while True:
        found = points(folder).get(name, {})
        if len(found) >= count or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def test_tensorboard_gets_every_update_once_whatever_was_killed(school: School) -> None:
    for index in range(4):
        school.play(somebodys(index))
    school.learn("t", algorithm="awr", **STORED)
    folder = school.folder / "t"
    returns = {update.sequence: update.mean_return for update in school.updates("t")}
    assert written(folder, "training/mean_return", len(returns)) == pytest.approx(returns)
    # A learner that was killed before it wrote: the next one writes it all.
    for file in folder.iterdir():
        file.unlink()
    Learner(school.database, "t", school.folder)
    assert written(folder, "training/mean_return", len(returns)) == pytest.approx(returns)
    assert written(folder, "training/wait_share", len(returns)).keys() == returns.keys()
