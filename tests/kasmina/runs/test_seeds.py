"""Seeds: each feeds one thing, in one episode."""

from __future__ import annotations

from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from chassis.validation import violations
from kasmina.runs.seeds import Stream, episode_seeds, split_seed, stream_seeds
from leyline.v1.episode_pb2 import Seeds
from leyline.v1.trainer_pb2 import RunSpec

STREAMS: tuple[Stream, ...] = get_args(Stream)

roots = st.integers(0, 2**64 - 1)


def values(spec: RunSpec, episode_index: int) -> dict[str, int]:
    """An episode's seeds by stream."""
    seeds = episode_seeds(spec, episode_index, STREAMS)
    return {stream: getattr(seeds, stream) for stream in STREAMS}


@given(root=roots, index=st.integers(0, 10**9))
def test_every_stream_of_every_episode_of_every_run_has_a_seed_of_its_own(
    root: int, index: int
) -> None:
    specs = RunSpec(seed=root), RunSpec(seed=(root + 1) % 2**64)
    episodes = [values(spec, i) for spec in specs for i in (index, index + 1)]
    seeds = [seed for episode in episodes for seed in episode.values()]
    assert len(set(seeds)) == len(seeds) == 24
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert values(specs[0], index) == values(specs[0], index)


@given(root=roots, own=roots, stream=st.sampled_from(STREAMS))
def test_a_seed_that_is_given_changes_its_stream_and_nothing_else(
    root: int, own: int, stream: str
) -> None:
    plain = RunSpec(seed=root)
    given_one = RunSpec(seed=root, seeds=Seeds(**{stream: own}))
    assert violations(given_one.seeds) == ()
    before, after = values(plain, 3), values(given_one, 3)
    assert before.pop(stream) != after.pop(stream)
    assert before == after


@given(own=roots, stream=st.sampled_from(STREAMS))
def test_runs_that_agree_in_a_seed_agree_in_its_stream_whatever_differs_otherwise(
    own: int, stream: str
) -> None:
    first, second = (RunSpec(seed=seed, seeds=Seeds(**{stream: own})) for seed in (1, 2))
    assert values(first, 5)[stream] == values(second, 5)[stream]


def test_streams_that_an_episode_does_not_draw_from_have_no_seed() -> None:
    seeds = episode_seeds(RunSpec(seed=1), 0, ("order",))
    assert [field.name for field, _ in seeds.ListFields()] == ["order"]


def test_the_seeds_of_a_runs_streams_given_again_are_the_same_run() -> None:
    spec = RunSpec(seed=9)
    other = RunSpec(seed=10, seeds=stream_seeds(spec))
    assert values(spec, 2) == values(other, 2)
    assert split_seed(spec) == split_seed(other)
