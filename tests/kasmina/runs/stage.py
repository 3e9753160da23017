"""Runs that are played in one process: an episode asks a decider that does as it is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.kasmina.neighbours import coin

from kasmina.data.dataset import Dataset
from kasmina.runs.decider import Answer, EpisodeTerms
from kasmina.runs.disk import Disk
from kasmina.runs.episode import Episode, EpisodeSetting
from kasmina.runs.episode_log import Beginning, Decided
from kasmina.runs.episode_source import EpisodeSource
from kasmina.runs.journal import Journal
from kasmina.runs.kin import Kin
from kasmina.runs.network_source import NetworkSource
from kasmina.runs.run_control import RunControl
from kasmina.runs.run_defaults import fill_in, fill_in_data
from kasmina.runs.simulated_host import is_simulated
from kasmina.runs.simulator_source import SimulatorSource
from kasmina.runs.state_directory import StateDirectory
from kasmina.settings import KasminaSettings
from leyline.v1.decision_pb2 import (
    ACTION_TYPE_WAIT,
    SELECTION_MODE_GREEDY,
    ActionType,
    Decision,
    DecisionQuery,
)
from leyline.v1.trainer_pb2 import (
    PRECISION_FP32,
    Compute,
    DatasetSpec,
    GrowthSpec,
    HostSpec,
    RunSpec,
    TrainingSpec,
    WatchRunResponse,
)
from leyline.v1.transition_pb2 import DECIDER_POLICY, Transition

Decide = Callable[[DecisionQuery], Decided]

COMPUTE = Compute(device="cpu", precision=PRECISION_FP32, threads=1)


def by_coin(query: DecisionQuery) -> Decided:
    """The policy's own decision."""
    return Decided(coin(query), DECIDER_POLICY, None)


def at(slot_id: str, *actions: ActionType.ValueType) -> Decide:
    """Does one thing after the other at a slot, and then repeats the last."""

    def decide(query: DecisionQuery) -> Decided:
        action = actions[min(query.snapshot.step_id.step, len(actions) - 1)]
        decision = Decision(
            decision_id="scripted",
            action_type=action,
            slot_id=None if action == ACTION_TYPE_WAIT else slot_id,
            policy_version="scripted-1",
            mode=SELECTION_MODE_GREEDY,
        )
        return Decided(decision, DECIDER_POLICY, None)

    return decide


def wait(query: DecisionQuery) -> Decided:
    """Always waits."""
    return at("", ACTION_TYPE_WAIT)(query)


@dataclass
class Scripted:
    """A decider that answers as it is told."""

    answer: Decide = by_coin
    asked: list[DecisionQuery] = field(default_factory=list)
    begun: list[EpisodeTerms] = field(default_factory=list)
    beginnings: list[Beginning] = field(default_factory=list)
    ended: int = 0

    def begin(self, terms: EpisodeTerms) -> Beginning:
        """Begins as it is told, or without a pin."""
        self.begun.append(terms)
        if self.beginnings:
            return self.beginnings.pop(0)
        return Beginning("scripted", False, None, SELECTION_MODE_GREEDY, None)

    def decide(self, query: DecisionQuery) -> Answer:
        """What it is told."""
        self.asked.append(query)
        return Answer(self.answer(query), latency_s=0.25)

    def end(self) -> None:
        """Counts ends."""
        self.ended += 1


def striped(horizon: int = 4, **parts: object) -> RunSpec:
    """A specification of a run on stripes; a part given takes the place of the one here."""
    spec = RunSpec(
        host=HostSpec(channels=[4, 6, 8]),
        dataset=DatasetSpec(name="digits"),
        training=TrainingSpec(horizon=horizon, batch_size=32),
        growth=GrowthSpec(blend_intervals=1),
        seed=11,
    )
    for name, part in parts.items():
        spec.ClearField(name)  # type: ignore[arg-type]
        spec.MergeFrom(RunSpec(**{name: part}))  # type: ignore[arg-type]
    return spec


@dataclass
class Stage:
    """A run that can be played."""

    setting: EpisodeSetting
    journal: Journal
    decider: Scripted

    def play(self, episode_index: int = 0) -> None:
        """Plays an episode."""
        Episode(self.setting, episode_index).play()

    @property
    def transitions(self) -> list[Transition]:
        """Those of the run in the outbox."""
        entries = self.journal.outbox.head(1000, 1 << 30)
        return [
            entry.item.transition
            for entry in entries
            if entry.item.HasField("transition") and entry.run_id == self.setting.run_id
        ]

    @property
    def curve(self) -> list[bytes]:
        """All that was measured from step to step, run and clocks apart."""
        measured, spent = [], 0
        for step in self.transitions:
            measured.append(_measured(step, spent if step.step_id.step else 0))
            spent = step.facts.multiply_adds_spent
        return measured

    @property
    def events(self) -> list[WatchRunResponse]:
        """Since the worker took the run."""
        return self.journal.events.after(self.setting.run_id, 2)


def stage(
    state: StateDirectory,
    images: Dataset,
    spec: RunSpec,
    decide: Decide = by_coin,
    run_id: str = "run",
) -> Stage:
    """The run of a specification over a state folder, as a worker would have it."""
    journal = Journal(state.journal)
    settled = fill_in(Kin(journal, state).resolve(spec), KasminaSettings())
    source = _source(settled, images)
    journal.runs.create(run_id, spec, settled, queue_limit=9)
    journal.runs.take(run_id)
    journal.runs.settle_compute(run_id, COMPUTE)
    journal.runs.settle_spec(run_id, settled)
    decider = Scripted(decide)
    setting = EpisodeSetting(
        run_id=run_id,
        spec=settled,
        source=source,
        journal=journal,
        state=state,
        control=RunControl(run_id, journal, Disk(state.root, state.reserve, 0), print),
        decider=decider,
    )
    return Stage(setting, journal, decider)


def _source(spec: RunSpec, images: Dataset) -> EpisodeSource:
    if is_simulated(spec):
        return SimulatorSource(spec)
    fill_in_data(spec, images)
    return NetworkSource(spec, COMPUTE, images)


def _measured(transition: Transition, spent_before: int) -> bytes:
    same = Transition(
        snapshot=transition.snapshot,
        next_snapshot=transition.next_snapshot,
        execution=transition.execution,
        facts=transition.facts,
    )
    same.facts.ClearField("duration")
    # A fork counts from its own first step on; what each interval cost is the same.
    same.facts.multiply_adds_spent -= spent_before
    for snapshot in (same.snapshot, same.next_snapshot):
        snapshot.ClearField("step_id")
    return same.SerializeToString(deterministic=True)
