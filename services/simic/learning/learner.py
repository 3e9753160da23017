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
from typing import TypeVar

import torch

from chassis.errors import LeylineError
from chassis.logging import bind_call, configure, get_logger
from leyline.observation import spec_by_name, vector_length
from leyline.v1.learner_pb2 import TrainingState
from leyline.v1.registry_pb2 import TrainingSummary
from simic.database.database import Database
from simic.learning import checkpoint
from simic.learning.lesson import Episode, LearnedVersion, Lessons, Progress, TrainingSuperseded
from simic.learning.network import MlpNetwork
from simic.learning.plan import RECIPES
from simic.learning.ppo import Ppo
from simic.learning.reward import REWARDS
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


class Learner:
    """Learns from whole episodes as they come in, until its training ends."""

    def __init__(self, database: Database, training_id: str) -> None:
        """Take the training up where it stands: at its beginning, or after its last update."""
        self._lessons = Lessons(database, training_id)
        self._store = TrainingStore(database)
        self._training_id = training_id
        progress = self._lessons.progress()
        plan = progress.plan
        self._recipe = RECIPES[plan.preset]
        self._spec = spec_by_name(plan.observation_spec)
        self._reward = REWARDS[plan.reward]
        begins = progress.policy_version is None
        network = self._begin(progress) if begins else self._initial_network(progress)
        # Made after the first version is out, for others wait for that: torch's optimisers load
        # its compiler, which takes seconds.
        self._ppo = Ppo(network, self._recipe, plan.max_updates)
        if not begins:
            checkpoint.restore(self._lessons.checkpoint(), network, self._ppo.optimizer)
            _log.info("training resumed", updates=progress.updates)

    def _begin(self, progress: Progress) -> MlpNetwork:
        """Publish the version to begin with; its network."""
        base = self._base(progress)
        if base is None:
            network = self._initial_network(progress)
            summary = TrainingSummary(training_id=self._training_id)
            state = checkpoint.to_bytes(network)
            version = learned_version(network, self._spec, "", summary, state)
        else:
            network, found = base
            version = replace(found, checkpoint=checkpoint.to_bytes(network))
        patiently(lambda: self._lessons.begin(version))
        _log.info("training begun", policy_version=version.manifest.policy_version)
        return network

    def _initial_network(self, progress: Progress) -> MlpNetwork:
        plan = progress.plan
        return MlpNetwork(vector_length(self._spec, plan.slots), plan.slots, plan.seed)

    def _base(self, progress: Progress) -> tuple[MlpNetwork, LearnedVersion] | None:
        """The active version to go on from, if it is of the kind that the plan asks for."""
        active = self._lessons.active()
        if active is None:
            return None
        manifest, artifact = active
        asked = (progress.plan.network, progress.plan.slots, self._spec.fingerprint)
        found = (manifest.network, manifest.slots.exactly, manifest.observation_spec.fingerprint)
        if found != asked:
            return None
        try:
            network = MlpNetwork.from_weights(read_weights(artifact))
        except (KeyError, RuntimeError):
            # Somebody else's graph under the same name: it can be served, not trained further.
            return None
        return network, LearnedVersion(manifest, artifact, b"")

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
        elif batch := self._lessons.fresh():
            self._learn(progress, batch)
        else:
            time.sleep(POLL_S)
        return True

    def _learn(self, progress: Progress, batch: Sequence[Episode]) -> None:
        number = progress.updates + 1
        replayed = self._lessons.replayed(self._recipe.replayed_batches)
        update = self._ppo.update(
            [self._trajectory(episode) for episode in batch],
            [self._trajectory(episode) for episode in replayed],
            number,
            progress.plan.seed,
        )
        version = self._version(progress, update, batch)
        patiently(lambda: self._lessons.commit(number, update, batch, version))
        _log.info(
            "policy updated",
            update=number,
            policy_version=version.manifest.policy_version,
            mean_return=round(update.mean_return, 4),
            **{name: round(value, 4) for name, value in update.diagnostics.items()},
        )

    def _trajectory(self, episode: Episode) -> Trajectory:
        return trajectory(episode.steps, self._spec, self._reward)

    def _version(
        self, progress: Progress, update: Update, batch: Sequence[Episode]
    ) -> LearnedVersion:
        network = self._ppo.network
        summary = TrainingSummary(
            training_id=self._training_id,
            updates=progress.updates + 1,
            episodes=progress.episodes + len(batch),
            transitions=progress.transitions + sum(len(episode.steps) for episode in batch),
            mean_return=update.mean_return,
            diagnostics=update.diagnostics,
        )
        state = checkpoint.to_bytes(network, self._ppo.optimizer)
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
    parser.add_argument("--log-level", default="info")
    parser.add_argument("--log-format", default="auto")
    arguments = parser.parse_args(argv)
    end_with_service()
    configure("simic-learner", arguments.log_level, arguments.log_format)
    bind_call(training_id=arguments.training_id)
    # One thread: the networks are small, and the trainer's own process wants the others.
    torch.set_num_threads(1)
    try:
        url = os.environ[DATABASE_URL]
        patiently(lambda: Learner(Database(url), arguments.training_id)).run()
    except TrainingSuperseded:
        _log.warning("another learner has taken this training over")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
