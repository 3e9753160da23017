"""Experience as a Parquet file: one row a step."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from leyline.client import Episode
from leyline.files.columns import (
    END,
    HEAD,
    OBSERVATION,
    OF_EPISODES,
    OF_STEPS,
    REPEATED,
    SCHEMA,
    STEP,
)
from leyline.files.error import FOREIGN, FileRefused, NotExperience, NothingSelected
from leyline.files.source import check_step, parsed
from leyline.files.specs import Specs
from leyline.v1.experience_pb2 import EpisodeHead, EpisodeSummary, ListEpisodesResponse
from leyline.v1.transition_pb2 import EpisodeEnd, Transition

FORMAT_VERSION = "1"
STEPS_AT_ONCE = 64
ROWS_A_GROUP = 8192
BYTES_A_GROUP = 16 << 20
"""Of transitions, before compression: their rows take about three times as much."""
ROWS_A_READ = 512

_VERSION_KEY = b"leyline.format_version"
_SPECS_KEY = b"leyline.observation_specs"
_WITHOUT_STEPS_KEY = b"leyline.episodes_without_steps"


class ParquetExport:
    """Writes one file, which is in its place once the block has ended without an error.

    Memory holds one row group and one episode.
    """

    def __init__(self, path: Path, specs: Specs) -> None:
        """Prepare a file.

        Raises:
            FileRefused: there is one already.
        """
        if path.exists():
            raise FileRefused(f"{path} is there already: remove it, or choose another name")
        self.path = path
        self._partial = path.with_name(path.name + ".part")
        self._specs = specs
        self._seen: dict[str, str] = {}
        self._without_steps: list[EpisodeSummary] = []
        self._columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
        self._bytes = 0
        self.episodes = 0
        """Episodes so far."""
        self.steps = 0
        """Steps so far; each is a row."""
        self.left_out = 0
        """Episodes that the file cannot hold: there are none."""

    def __enter__(self) -> Self:
        self._file = self._partial.open("wb")
        self._writer = pq.ParquetWriter(
            self._file,
            SCHEMA.with_metadata({_VERSION_KEY: FORMAT_VERSION}),
            compression="zstd",
            use_dictionary=REPEATED,
            write_page_checksum=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            with suppress(OSError):  # unless it is closed, it closes itself when it is forgotten
                self._writer.close()
            self._file.close()
            self._partial.unlink(missing_ok=True)

    def add(self, episode: Episode) -> None:
        """Write the next episode."""
        self.episodes += 1
        fingerprint = episode.head.spec_fingerprint
        spec = self._specs.get(fingerprint)
        self._seen[fingerprint] = "" if spec is None else spec.name
        if not episode.steps:
            self._without_steps.append(EpisodeSummary(head=episode.head, end=episode.end))
        for start in range(0, len(episode.steps), STEPS_AT_ONCE):
            self._add(episode, episode.steps[start : start + STEPS_AT_ONCE])

    def _add(self, episode: Episode, steps: Sequence[Transition]) -> None:
        for column in OF_EPISODES:
            self._columns[column.name].extend([column.read(episode)] * len(steps))
        for column in OF_STEPS:
            self._columns[column.name].extend(map(column.read, steps))
        fingerprint = episode.head.spec_fingerprint
        vectors = [self._specs.vector(step.snapshot, fingerprint) for step in steps]
        self._columns[OBSERVATION].extend(vectors)
        self.steps += len(steps)
        written = self._columns[STEP]
        self._bytes += sum(map(len, written[-len(steps) :]))
        if len(written) >= ROWS_A_GROUP or self._bytes >= BYTES_A_GROUP:
            self._write_group()

    def _write_group(self) -> None:
        self._writer.write_table(pa.table(self._columns, schema=SCHEMA))
        for values in self._columns.values():
            values.clear()
        self._bytes = 0

    def _finish(self) -> None:
        if not self.episodes:
            raise NothingSelected(str(self.path))
        if self._bytes:
            self._write_group()
        metadata = {_SPECS_KEY: json.dumps(self._seen)}
        if self._without_steps:
            summaries = ListEpisodesResponse(episodes=self._without_steps)
            encoded = base64.b64encode(summaries.SerializeToString())
            metadata[_WITHOUT_STEPS_KEY] = encoded.decode("ascii")
        self._writer.add_key_value_metadata(metadata)
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._partial.replace(self.path)


class ParquetSource:
    """Reads a file; memory holds one episode and some hundred rows."""

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            NotExperience: it is another kind of file, or of a later release.
            OSError: it cannot be read.
        """
        self._path = path
        with path.open("rb"):
            pass  # what the operating system says is clearer than what Arrow would
        try:
            self._file = pq.ParquetFile(path, page_checksum_verification=True)
        except pa.ArrowInvalid as error:
            raise NotExperience(
                path, f"it is no whole Parquet file ({_first_line(error)})"
            ) from None
        columns = self._file.schema_arrow.names
        missing = [name for name in (HEAD, STEP, END) if name not in columns]
        if missing:
            raise NotExperience(path, f"it has no column {' and no '.join(missing)}; {FOREIGN}")
        self._metadata = self._file.metadata.metadata or {}
        version = self._metadata.get(_VERSION_KEY, FORMAT_VERSION.encode()).decode(errors="replace")
        if version != FORMAT_VERSION:
            why = f"it has format {version}, and this release reads {FORMAT_VERSION}"
            raise NotExperience(path, why)

    @property
    def total_steps(self) -> int:
        """Its rows."""
        return int(self._file.metadata.num_rows)

    def episodes(self, run_id: str = "") -> Iterator[Episode]:
        """Yield its episodes; those without steps, which have no row, come last."""
        for episode in self._all():
            if run_id in ("", episode.head.run_id):
                yield episode

    def _all(self) -> Iterator[Episode]:
        """Put rows together that stand beside each other and have the same head and end."""
        episode: Episode | None = None
        current: tuple[bytes, bytes | None] | None = None
        for number, (head, step, end) in enumerate(self._rows()):
            where = f"row {number}"
            if episode is None or (head, end) != current:
                if episode is not None:
                    yield episode
                current = head, end
                episode = self._episode(head, end, where)
            transition = parsed(Transition, step, self._path, f"{where}, column {STEP}")
            check_step(transition, episode, self._path, where)
            episode.steps.append(transition)
        if episode is not None:
            yield episode
        yield from self._without_steps()

    def _episode(self, head: bytes, end: bytes | None, where: str) -> Episode:
        episode = Episode(parsed(EpisodeHead, head, self._path, f"{where}, column {HEAD}"))
        if end is not None:
            episode.end = parsed(EpisodeEnd, end, self._path, f"{where}, column {END}")
        return episode

    def _rows(self) -> Iterator[tuple[bytes, bytes, bytes | None]]:
        names = [HEAD, STEP, END]
        first = 0
        for group in range(self._file.num_row_groups):
            rows = self._file.metadata.row_group(group).num_rows
            try:
                batches = self._file.iter_batches(ROWS_A_READ, row_groups=[group], columns=names)
                for batch in batches:
                    columns = [batch.column(name).to_pylist() for name in names]
                    yield from zip(*columns, strict=True)
            except (pa.ArrowException, OSError) as error:
                why = f"rows {first} to {first + rows - 1} are damaged ({_first_line(error)})"
                raise NotExperience(self._path, why) from None
            first += rows

    def _without_steps(self) -> Iterator[Episode]:
        encoded = self._metadata.get(_WITHOUT_STEPS_KEY)
        if encoded is None:
            return
        where = "its metadata"
        try:
            data = base64.b64decode(encoded, validate=True)
        except ValueError:
            raise NotExperience(self._path, f"{where} cannot be read") from None
        for summary in parsed(ListEpisodesResponse, data, self._path, where).episodes:
            yield Episode(summary.head, [], summary.end if summary.HasField("end") else None)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
