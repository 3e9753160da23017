"""A network is downloaded whole or not at all, and goes on where it broke."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.leyline.serving import trainer_of

from leyline.client import DownloadCorrupt, Trainer, patience
from leyline.error import ServiceError
from leyline.v1.trainer_pb2 import (
    NETWORK_FORMAT_ONNX,
    DownloadNetworkRequest,
    DownloadNetworkResponse,
)
from leyline.v1.trainer_pb2_grpc import TrainerServiceServicer

CONTENT = random.Random(1).randbytes(1000)
PIECE = 100


class Shelf(TrainerServiceServicer):
    """Has one network; breaks off each stream after so many pieces."""

    def __init__(self, content: bytes = CONTENT, breaks_after: int | None = None) -> None:
        self.content = content
        self.claimed = hashlib.sha256(content).hexdigest()
        self.breaks_after = breaks_after
        self.asked: list[int] = []
        self.forms: list[int] = []

    async def DownloadNetwork(
        self, request: DownloadNetworkRequest, context: Any
    ) -> AsyncIterator[DownloadNetworkResponse]:
        self.asked.append(request.offset)
        self.forms.append(request.format)
        if request.offset > len(self.content):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the offset is too large")
        for sent, offset in enumerate(range(request.offset, len(self.content) + 1, PIECE)):
            if sent == self.breaks_after:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
            yield DownloadNetworkResponse(
                offset=offset,
                data=self.content[offset : offset + PIECE],
                total_size=len(self.content),
                sha256=self.claimed,
            )


def shelf(content: bytes = CONTENT, breaks_after: int | None = None) -> Shelf:
    return Shelf(content, breaks_after)  # the other calls are not served


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_WAIT_S", 0.01)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_a_download_goes_on_after_each_break_and_leaves_the_whole_file(
    tmp_path: Path,
) -> None:
    servicer, breaks, seen = shelf(breaks_after=3), [], []
    async with trainer_of(servicer, lambda error, _: breaks.append(error.code)) as trainer:
        sha256 = await trainer.download(
            "r",
            0,
            tmp_path / "net",
            NETWORK_FORMAT_ONNX,
            lambda done, total: seen.append((done, total)),
        )
    assert (tmp_path / "net").read_bytes() == CONTENT
    assert sha256 == servicer.claimed
    assert files(tmp_path) == ["net"]
    assert servicer.asked == [0, 300, 600, 900]
    assert set(servicer.forms) == {NETWORK_FORMAT_ONNX}
    assert breaks == ["UNAVAILABLE"] * 3
    assert seen == [(done, 1000) for done in range(100, 1001, 100)]


async def test_what_an_earlier_attempt_left_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as hurried:
        hurried.setattr(patience, "PATIENCE_S", 0.0)
        async with trainer_of(shelf(breaks_after=4)) as trainer:
            with pytest.raises(ServiceError, match="gone"):
                await trainer.download("r", 0, tmp_path / "net")
    assert not (tmp_path / "net").exists()
    servicer = shelf()
    async with trainer_of(servicer) as trainer:
        await trainer.download("r", 0, tmp_path / "net")
    assert servicer.asked == [400]
    assert (tmp_path / "net").read_bytes() == CONTENT
    assert files(tmp_path) == ["net"]


@pytest.mark.parametrize("left", [PIECE, len(CONTENT) + PIECE])
async def test_what_is_left_of_another_file_is_not_taken_for_a_part_of_this_one(
    tmp_path: Path, left: int
) -> None:
    (tmp_path / f".net.{'0' * 16}.partial").write_bytes(bytes(left))
    (tmp_path / ".network.partial").write_bytes(b"somebody else's")
    servicer = shelf()
    async with trainer_of(servicer) as trainer:
        await trainer.download("r", 0, tmp_path / "net")
    assert servicer.asked == [left, 0]
    assert (tmp_path / "net").read_bytes() == CONTENT
    assert files(tmp_path) == [".network.partial", "net"]


async def test_a_download_that_was_whole_but_not_in_its_place_is_only_checked(
    tmp_path: Path,
) -> None:
    servicer = shelf()
    (tmp_path / f".net.{servicer.claimed[:16]}.partial").write_bytes(CONTENT)
    async with trainer_of(servicer) as trainer:
        await trainer.download("r", 0, tmp_path / "net")
    assert servicer.asked == [len(CONTENT)]
    assert files(tmp_path) == ["net"]


async def test_damage_in_what_was_left_is_found_and_the_file_fetched_anew(tmp_path: Path) -> None:
    servicer = shelf()
    (tmp_path / f".net.{servicer.claimed[:16]}.partial").write_bytes(bytes(300))
    async with trainer_of(servicer) as trainer:
        await trainer.download("r", 0, tmp_path / "net")
    assert servicer.asked == [300, 0]
    assert (tmp_path / "net").read_bytes() == CONTENT


async def test_a_file_that_never_has_its_sha256_is_not_written_over_the_old_one(
    tmp_path: Path,
) -> None:
    (tmp_path / "net").write_bytes(b"old")
    servicer = shelf()
    servicer.claimed = "0" * 64
    async with trainer_of(servicer) as trainer:
        with pytest.raises(DownloadCorrupt, match="does not help"):
            await trainer.download("r", 0, tmp_path / "net")
    assert servicer.asked == [0, 0]
    assert files(tmp_path) == ["net"]
    assert (tmp_path / "net").read_bytes() == b"old"


async def test_a_place_where_no_file_can_be_is_found_before_a_service_is_asked(
    tmp_path: Path,
) -> None:
    async with Trainer("127.0.0.1:1") as trainer:
        with pytest.raises(FileNotFoundError):
            await trainer.download("r", 0, tmp_path / "no-folder" / "net")
        with pytest.raises(IsADirectoryError):
            await trainer.download("r", 0, tmp_path)
