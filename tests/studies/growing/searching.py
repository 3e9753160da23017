"""The stage `search`: the best fixed schedule, on situations that nothing else plays."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from tests.studies.growing.outcomes import outcomes
from tests.studies.growing.playing import Job, play, say
from tests.studies.growing.preset import WAITING, Preset, Share, root_seed
from tests.studies.growing.problem import StudyError
from tests.studies.growing.schedules import NOTHING, Halving, better_half, family
from tests.studies.growing.services import Services
from tests.studies.growing.state import State

from leyline.client import Experience

RUNS = "search"


async def search(services: Services, state: State, preset: Preset, *, seed: int) -> None:
    """Finds the schedule with the highest mean of final accuracy less rent, less the twin's.

    Raises:
        StudyError: the budget is too small for anything, or a run failed.
    """
    blend = preset.growth.blend_intervals
    candidates = family(preset.horizon, blend)
    halving = Halving.within(state.config["search_episodes"], len(candidates))
    if halving is None:
        raise StudyError("a search needs two episodes at least: raise --search-episodes")
    left = {one.name: one for one in candidates[: halving.candidates]}
    say(f"search: {len(left)} of {len(candidates)} schedules, {halving.rounds} rounds")
    gains: dict[str, list[float]] = {name: [] for name in left}
    first, clock = 0, state.clock("search")
    async with services.trainer() as trainer, services.experience() as experience:
        for number in range(1, halving.rounds + 1):
            episodes = halving.situations(len(left))
            share = Share(root_seed("search", seed), first, episodes)
            twin = Job(f"{RUNS}-{number}-{NOTHING}", preset.run_spec(WAITING, share))
            jobs = {
                name: Job(f"{RUNS}-{number}-{one.slug}", preset.run_spec(one.policy(blend), share))
                for name, one in left.items()
            }
            what = f"search, round {number} of {halving.rounds}"
            await play(trainer, [twin, *jobs.values()], clock, what, preset.episode_s)
            waited = await _scores(experience, twin, preset.rent)
            for name in left:
                scores = await _scores(experience, jobs[name], preset.rent)
                gains[name] += [
                    score - of_twin for score, of_twin in zip(scores, waited, strict=True)
                ]
            left = {name: left[name] for name in better_half({n: gains[n] for n in left})}
            first += episodes
    best = next(iter(left))
    mean = statistics.fmean(gains[best])
    state.schedule = best if mean > 0 else NOTHING
    state.searched = {name: [round(gain, 3) for gain in each] for name, each in gains.items()}
    clock.save()
    say(f"search: {state.schedule}; {best} is worth {mean:+.2f} in {len(gains[best])} situations")


async def _scores(experience: Experience, job: Job, price: float) -> Sequence[float]:
    """Of the run's episodes, in order."""
    played = await outcomes(experience, job.run_id, price)
    return [played[index].score for index in sorted(played)]
