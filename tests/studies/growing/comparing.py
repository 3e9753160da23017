"""The stage `compare`: every arm plays the same fresh episodes."""

from __future__ import annotations

from collections.abc import Mapping

from tests.studies.growing.outcomes import Outcome, outcomes
from tests.studies.growing.playing import Job, play, say
from tests.studies.growing.preset import SLOTS, WAITING, Preset, Share, root_seed
from tests.studies.growing.problem import StudyError
from tests.studies.growing.schedules import NOTHING, Schedule, policy_named
from tests.studies.growing.services import BUILT_IN, Services
from tests.studies.growing.state import State

from leyline.client import Experience
from leyline.v1.decision_pb2 import SELECTION_MODE_GREEDY, SELECTION_MODE_SAMPLED
from leyline.v1.trainer_pb2 import PolicySpec

LEARNED = "learned, greedy"
SAMPLED = "learned, sampled"
POLICIES = ("learned", *BUILT_IN)
"""That must be served."""
SCHEDULE = "schedule"

Played = Mapping[str, Mapping[int, Outcome]]
"""Episodes by arm and index."""


def arms(schedule: str, blend_intervals: int) -> dict[str, PolicySpec]:
    """Who decides, by the arm's name.

    Policies are waited for, so that every decision is theirs. `random` is drawn, as it is nothing
    else; `heuristic` has no randomness.
    """
    greedy, drawn = SELECTION_MODE_GREEDY, SELECTION_MODE_SAMPLED
    return {
        NOTHING: WAITING,
        "random": PolicySpec(endpoint="random", mode=drawn, deterministic=True),
        "heuristic": PolicySpec(endpoint="heuristic", mode=greedy, deterministic=True),
        **{slot: Schedule((place,), 0).policy(blend_intervals) for place, slot in enumerate(SLOTS)},
        SCHEDULE: policy_named(schedule, blend_intervals),
        LEARNED: PolicySpec(mode=greedy, deterministic=True),
        SAMPLED: PolicySpec(mode=drawn, deterministic=True),
    }


def run_id(stage: str, arm: str, first: int) -> str:
    """Names the run of an arm's episodes from `first` on."""
    return f"{stage}-{arm.replace(', ', '-')}-{first:03d}"


async def compare(
    services: Services, state: State, preset: Preset, *, seed: int, episodes: int, held_out: bool
) -> None:
    """Has every arm play its episodes, some of each in turn.

    Raises:
        StudyError: there is nothing to compare yet, or a run failed.
    """
    missing = [
        stage for stage, done in (("train", state.version), ("search", state.schedule)) if not done
    ]
    if missing:
        raise StudyError(f"compare needs what {' and '.join(missing)} come to: run --stage all")
    stage = stage_name(held_out)
    jobs = [
        Job(
            run_id(stage, arm, first),
            preset.run_spec(
                policy, Share(root_seed(stage, seed), first, preset.chunk), held_out=held_out
            ),
        )
        for first in range(0, episodes, preset.chunk)
        for arm, policy in arms(state.schedule, preset.growth.blend_intervals).items()
    ]
    async with services.trainer() as trainer:
        await services.policies_ready()
        clock = state.clock(stage)
        await play(trainer, jobs, clock, stage, preset.episode_s)
        clock.save()
    say(f"{stage}: {episodes} episodes an arm are there")


def stage_name(held_out: bool) -> str:
    """What the comparison is called in the folder."""
    return "held-out" if held_out else "compare"


async def played(
    experience: Experience, state: State, preset: Preset, *, episodes: int, held_out: bool
) -> Played:
    """The episodes that all arms have played so far.

    Raises:
        StudyError: something else decided than what was learned.
    """
    stage = stage_name(held_out)
    found: dict[str, dict[int, Outcome]] = {}
    for arm in arms(NOTHING, preset.growth.blend_intervals):
        found[arm] = {}
        for first in range(0, episodes, preset.chunk):
            found[arm] |= await outcomes(experience, run_id(stage, arm, first), preset.rent)
    shared = sorted(set.intersection(*(set(each) for each in found.values())))
    for arm in (LEARNED, SAMPLED):
        decided = {version for one in found[arm].values() for version in one.versions}
        if decided - {state.version}:
            others = ", ".join(sorted(decided - {state.version}))
            raise StudyError(f"{arm} was decided by {others}, not by {state.version}")
    for index in shared:
        if len({str(found[arm][index].situation) for arm in found}) > 1:
            raise StudyError(f"the arms' episodes {index} are not of one situation")
    return {arm: {index: each[index] for index in shared} for arm, each in found.items()}
