"""The seeds of an episode: one for each thing that is random, so that the arms of a comparison can
be paired.

    run's seed --- unless the specification has one of the stream's own --- stream's seed
    stream's seed --- episode's index --- the episode's seed of that stream
    stream's seed --- number of a pair --- that of both episodes of a pair of an evaluation

The images of the validation split, and the training images that are kept of all there are, belong
to the run and not to an episode: they follow from the data stream's seed (`split_seed`), so that
what is measured in one episode is measured on the same images in the next.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

from kasmina.randomness import derive_seed
from leyline.v1.episode_pb2 import Seeds
from leyline.v1.trainer_pb2 import RunSpec

Stream = Literal["situation", "data", "initialization", "order", "augmentation", "blueprint"]
"""Something random that has a seed of its own."""


def stream_seeds(spec: RunSpec) -> Seeds:
    """The run's seed of every stream."""
    return Seeds(**{stream: _stream_seed(spec, stream) for stream in get_args(Stream)})


def episode_seeds(spec: RunSpec, episode_index: int, streams: Iterable[Stream]) -> Seeds:
    """The seeds of an episode that draws from those streams; the others are unset."""
    return _derived(spec, streams, "episode", episode_index)


def evaluation_seeds(spec: RunSpec, pair: int, streams: Iterable[Stream]) -> Seeds:
    """The seeds of the episodes of a pair, whatever their indices."""
    return _derived(spec, streams, "evaluation", pair)


def split_seed(spec: RunSpec) -> int:
    """Seed of the splits that all episodes of the run have in common."""
    return derive_seed(_stream_seed(spec, "data"), "split")


def _derived(spec: RunSpec, streams: Iterable[Stream], kind: str, number: int) -> Seeds:
    return Seeds(
        **{stream: derive_seed(_stream_seed(spec, stream), kind, number) for stream in streams}
    )


def _stream_seed(spec: RunSpec, stream: Stream) -> int:
    if spec.seeds.HasField(stream):
        return int(getattr(spec.seeds, stream))
    return derive_seed(spec.seed, stream)
