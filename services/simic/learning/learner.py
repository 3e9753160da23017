"""The learner: a process of its own, so that the service answers while it computes.

``python -m simic.learning.learner`` is started by the service, never by hand. It ends when its
training does, and when the pipe that is its standard input closes: a learner never outlives its
service.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from chassis.errors import LeylineError
from chassis.logging import bind_call, configure, get_logger
from leyline.observation import spec_by_name
from leyline.v1.learner_pb2 import TrainingState
from leyline.v1.registry_pb2 import TrainingSummary
from simic.database.database import Database
from simic.learning import algorithms, checkpoint, networks
from simic.learning.curves import Curves
from simic.learning.diagnostics import alarms
from simic.learning.episode import Episode
from simic.learning.evaluation import Evaluations
from simic.learning.lesson import LearnedVersion, Lessons, Progress, TrainingSuperseded
from simic.learning.network import PolicyNetwork
from simic.learning.plan import STORED
from simic.learning.reward import RewardUndefined, less_the_twin, reward_by_name
from simic.learning.rollout import Trajectory, trajectory
from simic.learning.training import TrainingStore
from simic.learning.update import Update
from simic.learning.version import learned_version
from simic.policies.artifact import read_weights

POLL_S = 0.2
"""How often the learner looks for whole episodes: they take seconds at least."""

DATABASE_URL = "LEYLINE_SIMIC_LEARNER_DATABASE_URL"
"""Variable with the database's URL, which may hold a password: arguments are for all to see."""

Result = TypeVar("Result")

_log = get_logger("simic.learning.learner")


class UnfitBase(ValueError):
    """The version that a plan begins with is of another kind than the plan."""


class Learner:
    """Learns from whole episodes as they come in, until its training ends."""

    def __init__(self, database: Database, training_id: str, curves: Path) -> None:
        """Take the training up where it stands: at its beginning, or after its last update.

        Args:
            database: where experience, versions and trainings are.
            training_id: of the training.
            curves: folder for the curves of all trainings.
        """
        self._lessons = Lessons(database, training_id)
        self._store = TrainingStore(database)
        self._training_id = training_id
        progress = self._lessons.progress()
        plan = self._plan = progress.plan
        self._spec = spec_by_name(plan.observation_spec)
        self._reward = reward_by_name(plan.reward, plan.rent)
        self._evaluations = Evaluations(database, training_id, self._reward)
        begins = progress.policy_version is None
        network = self._begin(progress) if begins else networks.build(plan)
        # Made after the first version is out, for others wait for that: torch's optimisers load
        # its compiler, which takes seconds.
        self._algorithm = algorithms.build(plan, network)
        if not begins:
            state = self._lessons.checkpoint()
            checkpoint.restore(state, network, self._algorithm.optimizers)
            _log.info("training resumed", updates=progress.updates)
        self._curves = Curves(curves / training_id, self._made())

    def _made(self) -> list[tuple[int, Update, int]]:
        """The updates of the training so far, with the episodes that it had learned from then."""
        made: list[tuple[int, Update, int]] = []
        episodes = 0
        while page := self._store.updates(self._training_id, made[-1][0] if made else 0):
            for told in page:
                episodes += told.episodes
                update = Update(
                    gradient_steps=told.gradient_steps,
                    mean_return=told.mean_return,
                    diagnostics=dict(told.diagnostics),
                    alarms=list(told.alarms),
                )
                made.append((told.sequence, update, episodes))
        return made

    def _begin(self, progress: Progress) -> PolicyNetwork:
        """Publish the version to begin with; its network."""
        base = self._base()
        if base is None:
            network = networks.build(self._plan)
            summary = TrainingSummary(training_id=self._training_id)
            state = checkpoint.to_bytes(network)
            version = learned_version(network, self._spec, "", summary, state)
        else:
            network, found = base
            version = replace(found, checkpoint=checkpoint.to_bytes(network))
        patiently(lambda: self._lessons.begin(version))
        _log.info("training begun", policy_version=version.manifest.policy_version)
        return network

    def _base(self) -> tuple[PolicyNetwork, LearnedVersion] | None:
        """The version to go on from: the plan's, else the active one where it is of the plan's
        kind.

        Raises:
            UnfitBase: the plan names one that is not.
        """
        named = self._plan.initial_version
        base = self._lessons.version(named)
        if base is None:
            return None
        manifest, artifact = base
        try:
            network = networks.build(self._plan)
            sees = network.observation_seen.clone()
            network.load_weights(read_weights(artifact))
        except (KeyError, RuntimeError):
            # Somebody else's graph under the same name: it can be served, not trained further.
            fits = False
        else:
            kind = (manifest.network, manifest.observation_spec.fingerprint)
            fits = kind == (self._plan.network, self._spec.fingerprint) and torch.equal(
                network.observation_seen, sees
            )
        if fits:
            return network, LearnedVersion(manifest, artifact, b"")
        if named:
            raise UnfitBase(
                f"initial_version {named} is no {self._plan.network} network for"
                f" {self._plan.observation_spec} observations of the plan's slots and mask"
            )
        return None

    def run(self) -> None:
        """Learn until the training ends.

        Raises:
            TrainingSuperseded: another learner has taken over.
        """
        while patiently(self._goes_on):
            pass

    def _goes_on(self) -> bool:
        """Take one turn: look what the training needs, and do it. False once it has ended."""
        progress = self._lessons.progress()
        if not progress.running:
            return False
        if progress.stop_requested:
            stopped = TrainingState.TRAINING_STATE_STOPPED
            self._store.end(self._training_id, stopped, "stopped on request")
        elif (batch := self._batch(progress)) is not None:
            self._learn(progress, batch)
        else:
            time.sleep(POLL_S)
        self._evaluate()
        return True

    def _evaluate(self) -> None:
        evaluation = self._evaluations.conclude()
        if evaluation is not None:
            _log.info(
                "policy evaluated",
                policy_version=evaluation.policy_version,
                baseline=evaluation.baseline_version,
                pairs=evaluation.pairs,
                mean_difference=round(evaluation.mean_difference, 4),
                activated=evaluation.activated,
            )

    def _batch(self, progress: Progress) -> Sequence[Episode] | None:
        if self._plan.experience == STORED:
            return self._lessons.stored(progress.updates + 1)
        return self._lessons.fresh()

    def _learn(self, progress: Progress, batch: Sequence[Episode]) -> None:
        number = progress.updates + 1
        if not batch:
            patiently(lambda: self._lessons.pass_over(number))
            _log.info("update without episodes", update=number)
            return
        earlier = self._lessons.replayed(self._algorithm.batches)
        update = self._algorithm.update(
            [self._trajectory(episode, number) for episode in batch],
            [[self._trajectory(episode, number) for episode in each] for each in earlier],
            number,
            self._plan.seed,
        )
        update = replace(update, alarms=alarms(update.diagnostics))
        version = self._version(progress, update, batch)
        patiently(lambda: self._lessons.commit(number, update, batch, version))
        self._curves.add(number, update, progress.episodes + len(batch))
        _log.info(
            "policy updated",
            update=number,
            policy_version=version.manifest.policy_version,
            mean_return=round(update.mean_return, 4),
            **{name: round(value, 4) for name, value in update.diagnostics.items()},
        )
        for alarm in update.alarms:
            _log.warning("alarm", update=number, reason=alarm)

    def _trajectory(self, episode: Episode, number: int) -> Trajectory:
        rewards = self._reward(episode.steps)
        if episode.twin is not None:
            rewards = less_the_twin(rewards, self._reward(episode.twin))
        age = 0 if episode.made_by is None else number - 1 - episode.made_by
        return trajectory(episode.steps, self._spec, rewards, age)

    def _version(
        self, progress: Progress, update: Update, batch: Sequence[Episode]
    ) -> LearnedVersion:
        network = self._algorithm.network
        summary = TrainingSummary(
            training_id=self._training_id,
            updates=progress.updates + 1,
            episodes=progress.episodes + len(batch),
            transitions=progress.transitions + sum(len(episode.steps) for episode in batch),
            mean_return=update.mean_return,
            diagnostics=update.diagnostics,
        )
        state = checkpoint.to_bytes(network, self._algorithm.optimizers)
        return learned_version(network, self._spec, progress.policy_version or "", summary, state)


def patiently(call: Callable[[], Result]) -> Result:
    """Call, and while the disk is full or the database away, wait and call again."""
    while True:
        try:
            return call()
        except LeylineError as error:
            if error.retry_after_s is None:
                raise
            _log.warning("waiting", reason=str(error))
            time.sleep(error.retry_after_s)


def end_with_service() -> None:
    """End this process, whatever it is doing, when its standard input closes.

    An update that it is in is lost with it: nothing of it is stored before all of it is.
    """

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        os._exit(0)

    threading.Thread(target=wait, name="service-watch", daemon=True).start()


def main(argv: Sequence[str]) -> int:
    """Run the learner of one training; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m simic.learning.learner", description=__doc__)
    parser.add_argument("--training-id", required=True)
    parser.add_argument("--curves", type=Path, required=True)
    parser.add_argument("--log-level", default="info")
    parser.add_argument("--log-format", default="auto")
    arguments = parser.parse_args(argv)
    end_with_service()
    configure("simic-learner", arguments.log_level, arguments.log_format)
    bind_call(training_id=arguments.training_id)
    # One thread: the networks are small, and the trainer's own process wants the others.
    torch.set_num_threads(1)
    url = os.environ[DATABASE_URL]
    database = patiently(lambda: Database(url))
    try:
        patiently(lambda: Learner(database, arguments.training_id, arguments.curves)).run()
    except TrainingSuperseded:
        _log.warning("another learner has taken this training over")
    except (RewardUndefined, UnfitBase) as error:
        # Trying again would not help.
        failed = TrainingState.TRAINING_STATE_FAILED
        TrainingStore(database).end(arguments.training_id, failed, str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
