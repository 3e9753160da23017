"""Sends transitions on one stream, some messages at a time: a turn for each line that it reads.

    python -m tests.benchmarks.ingest_load 127.0.0.1:50053 messages 20

The file holds messages as `write_messages` leaves them. Each turn sends the next 20, at most two of
them unacknowledged, and prints the seconds from the first to the last acknowledgement.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import grpc.aio

from leyline.v1.experience_pb2 import StreamTransitionsResponse

METHOD = "/leyline.v1.ExperienceService/StreamTransitions"
UNACKNOWLEDGED = 2
_LENGTH_BYTES = 4


def write_messages(path: Path, messages: Iterable[bytes]) -> None:
    """Writes messages, each after its length."""
    with path.open("wb") as file:
        for message in messages:
            file.write(len(message).to_bytes(_LENGTH_BYTES, "big") + message)


def read_messages(path: Path) -> list[bytes]:
    """The messages of a file."""
    messages, data, at = [], path.read_bytes(), 0
    while at < len(data):
        length = int.from_bytes(data[at : at + _LENGTH_BYTES], "big")
        at += _LENGTH_BYTES + length
        messages.append(data[at - length : at])
    return messages


async def send(stream: grpc.aio.StreamStreamCall[bytes, bytes], messages: Sequence[bytes]) -> None:
    """Sends messages, and waits until all of them are acknowledged.

    Raises:
        RuntimeError: something was refused, or the stream ended.
    """
    for sent, message in enumerate(messages):
        await stream.write(message)
        if sent >= UNACKNOWLEDGED - 1:
            await _acknowledged(stream)
    for _ in range(min(UNACKNOWLEDGED - 1, len(messages))):
        await _acknowledged(stream)


async def _acknowledged(stream: grpc.aio.StreamStreamCall[bytes, bytes]) -> None:
    answer = await stream.read()
    if not isinstance(answer, bytes):
        raise RuntimeError("the server ended the stream")
    response = StreamTransitionsResponse.FromString(answer)
    if response.rejected:
        raise RuntimeError(f"the server refused {response.rejected[0]}")


async def take_turns(address: str, messages: list[bytes], a_turn: int) -> None:
    """Sends `a_turn` messages for each line of the input, and prints how long it took."""
    async with grpc.aio.insecure_channel(address) as channel:
        await channel.channel_ready()
        stream: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(METHOD)()
        while await asyncio.to_thread(sys.stdin.readline):
            turn, messages = messages[:a_turn], messages[a_turn:]
            started = time.perf_counter()
            await send(stream, turn)
            print(time.perf_counter() - started, flush=True)
        await stream.done_writing()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("messages", type=Path)
    parser.add_argument("a_turn", type=int)
    options = parser.parse_args()
    messages = read_messages(options.messages)
    asyncio.run(take_turns(options.address, messages, options.a_turn))


if __name__ == "__main__":
    main()
