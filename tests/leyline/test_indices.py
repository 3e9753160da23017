from __future__ import annotations

import pytest

from leyline.indices import episode_indices, in_words
from leyline.v1.trainer_pb2 import RunSpec


@pytest.mark.parametrize(
    ("spec", "indices", "words"),
    [
        (RunSpec(), [0], "0"),
        (RunSpec(episodes=4), [0, 1, 2, 3], "0 to 3"),
        (RunSpec(episodes=2, first_episode=17), [17, 18], "17, 18"),
        (RunSpec(episodes=3, first_episode=1, episode_stride=8), [1, 9, 17], "1, 9, 17"),
        (RunSpec(episodes=4, first_episode=1, episode_stride=8), [1, 9, 17, 25], "1, 9, ... 25"),
        (RunSpec(first_episode=5, episode_stride=8), [5], "5"),
    ],
)
def test_a_run_has_so_many_episodes_from_the_first_on(
    spec: RunSpec, indices: list[int], words: str
) -> None:
    assert list(episode_indices(spec)) == indices
    assert in_words(episode_indices(spec)) == words


def test_trainers_that_share_a_run_play_each_episode_once() -> None:
    shares = [RunSpec(episodes=4, first_episode=first, episode_stride=3) for first in range(3)]
    played = [index for share in shares for index in episode_indices(share)]
    assert sorted(played) == list(range(12))
