"""Runs that a specification refers to: the twin that waits, the parent of a fork, the episode whose
topology is trained again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.message import Message

from kasmina.runs.complaint import invalid
from kasmina.runs.episode_log import EpisodeRecord
from kasmina.runs.journal import Journal
from kasmina.runs.run_defaults import fill_in
from kasmina.runs.run_log import RunRecord
from kasmina.runs.seeds import stream_seeds
from kasmina.runs.simulated_host import is_simulated
from kasmina.runs.state_directory import StateDirectory
from kasmina.settings import KasminaSettings
from leyline.indices import episode_indices, in_words
from leyline.v1.decision_pb2 import ACTION_TYPE_WAIT
from leyline.v1.episode_pb2 import EpisodeReference
from leyline.v1.snapshot_pb2 import STAGE_FOSSILIZED
from leyline.v1.trainer_pb2 import PRECISION_UNSPECIFIED, RunSpec
from leyline.v1.transition_pb2 import TERMINATION_HORIZON

_OF_THE_PARENT = ("host", "dataset", "training", "growth", "seeds")
_MAY_DIFFER_FROM_THE_TWIN = frozenset(
    (
        *("title", "policy", "observation_spec", "twin_run", "keep_checkpoints"),
        *("episodes", "first_episode", "episode_stride"),
    )
)


class Kin:
    """What the journal knows of other runs."""

    def __init__(self, journal: Journal, state: StateDirectory) -> None:
        self._journal = journal
        self._state = state

    def resolve(self, requested: RunSpec) -> RunSpec:
        """The specification with what it takes from other runs.

        Raises LeylineError where there is nothing to take, or where it says otherwise itself.
        """
        spec = RunSpec()
        spec.CopyFrom(requested)
        if spec.HasField("fork"):
            self._take_from_parent(spec)
        elif spec.growth.HasField("topology"):
            self._take_topology(spec)
        return spec

    def check_twin(self, spec: RunSpec, settings: KasminaSettings) -> None:
        """Refuses a filled-in specification whose twin is not what it says.

        What is settled when a run starts may be given as the twin was asked for or as it was
        settled. A precision that is left open becomes the twin's. Raises LeylineError.
        """
        if not spec.twin_run:
            return
        field = "spec.twin_run"
        twin = self._run(spec.twin_run, field)
        asked = fill_in(self._journal.runs.requested(twin.run_id), settings)
        spec.training.precision = spec.training.precision or twin.spec.training.precision
        if not is_simulated(spec) and spec.training.precision == PRECISION_UNSPECIFIED:
            described = "must be given, here and to the twin, while the twin has not started"
            raise invalid("spec.training.precision", described).error()
        settled = set(_differences(spec, twin.spec))
        differing = [path for path in _differences(spec, asked) if path in settled]
        if differing:
            described = f"run {twin.run_id!r} differs in {', '.join(differing)}"
            raise invalid(field, described).error()
        missing = _first_missing(episode_indices(spec), episode_indices(twin.spec))
        if missing is not None:
            has = in_words(episode_indices(twin.spec))
            problem = f"run {twin.run_id!r} has episodes {has}, and this has episode {missing} too"
            raise invalid(field, problem).error()
        acts = any(a.action_type != ACTION_TYPE_WAIT for a in twin.spec.policy.plan.actions)
        if acts or self._journal.episodes.has_acted(twin.run_id):
            raise invalid(field, f"run {twin.run_id!r} does not only wait").error()

    def _take_from_parent(self, spec: RunSpec) -> None:
        fork = spec.fork
        field = "spec.fork"
        parent = self._run(fork.parent.run_id, f"{field}.parent.run_id")
        self._episode(fork.parent, f"{field}.parent.episode_index")
        steps = self._checkpoint_steps(fork.parent)
        if fork.step not in steps:
            known = ", ".join(map(str, steps)) or "none"
            described = (
                f"there is no checkpoint of that step; there are: {known}."
                " A run with keep_checkpoints keeps all"
            )
            raise invalid(f"{field}.step", described).error()
        if spec.episodes > 1:
            raise invalid("spec.episodes", "must be 1: a fork is one episode").error()
        if spec.HasField("situations"):
            raise invalid(
                "spec.situations", "must be empty: a fork has its parent's situation"
            ).error()
        inherited = RunSpec()
        inherited.CopyFrom(parent.spec)
        inherited.seeds.CopyFrom(stream_seeds(parent.spec))
        inherited.training.horizon -= fork.step
        for name in _OF_THE_PARENT:
            given, taken = getattr(spec, name), getattr(inherited, name)
            if given.ByteSize() and given != taken:
                described = f"must be empty: a fork has that of its parent, run {parent.run_id!r}"
                raise invalid(f"spec.{name}", described).error()
            if taken.ByteSize():
                given.CopyFrom(taken)

    def _take_topology(self, spec: RunSpec) -> None:
        growth, field = spec.growth, "spec.growth.topology"
        self._run(growth.topology.run_id, f"{field}.run_id")
        episode = self._episode(growth.topology, f"{field}.episode_index")
        if episode.termination != TERMINATION_HORIZON:
            raise invalid(field, "that episode has not come to its horizon").error()
        planted = self._topology(growth.topology)
        if growth.planted and dict(growth.planted) != planted:
            described = "must be empty, or what the topology's episode has come to"
            raise invalid("spec.growth.planted", described).error()
        growth.planted.update(planted)

    def _topology(self, reference: EpisodeReference) -> Mapping[str, str]:
        """Blueprints of the seeds that the episode has come to, by slot id."""
        last = self._journal.episodes.last_step(reference.run_id, reference.episode_index)
        blueprints = {slot.slot_id: slot.blueprint for slot in last.facts.slots}
        return {
            slot.slot_id: blueprints[slot.slot_id]
            for slot in last.next_snapshot.slots
            if slot.stage == STAGE_FOSSILIZED
        }

    def _checkpoint_steps(self, reference: EpisodeReference) -> list[int]:
        folder = self._state.checkpoints(reference.run_id)
        files = folder.glob(f"{reference.episode_index}-*.safetensors")
        return sorted(int(file.stem.partition("-")[2]) for file in files)

    def _run(self, run_id: str, field: str) -> RunRecord:
        run = self._journal.runs.get(run_id)
        if run is None:
            raise invalid(field, f"there is no run {run_id!r}").error()
        return run

    def _episode(self, reference: EpisodeReference, field: str) -> EpisodeRecord:
        episode = self._journal.episodes.get(reference.run_id, reference.episode_index)
        if episode is None:
            described = f"run {reference.run_id!r} has no episode {reference.episode_index} yet"
            raise invalid(field, described).error()
        return episode


def _first_missing(wanted: range, there: range) -> int | None:
    return next((index for index in wanted if index not in there), None)


def _differences(spec: RunSpec, twin: RunSpec) -> Iterator[str]:
    """Paths of the fields in which a specification differs from its twin's, the policy apart."""
    for field in RunSpec.DESCRIPTOR.fields:
        if field.name not in _MAY_DIFFER_FROM_THE_TWIN:
            yield from _differing(field.name, getattr(spec, field.name), getattr(twin, field.name))


def _differing(path: str, one: Any, other: Any) -> Iterator[str]:
    if one == other:
        return
    if not isinstance(one, Message):
        yield path
        return
    for field in one.DESCRIPTOR.fields:
        # Unset is not the same as the default where the difference can be told.
        if field.has_presence and one.HasField(field.name) != other.HasField(field.name):
            yield f"{path}.{field.name}"
        else:
            inner = getattr(one, field.name), getattr(other, field.name)
            yield from _differing(f"{path}.{field.name}", *inner)
