"""Experience as a data set of Minari: https://minari.farama.org. Nothing here uses the network."""

from __future__ import annotations

import base64
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import minari  # type: ignore[import-untyped]
from google.protobuf.message import Message
from minari.data_collector import EpisodeBuffer  # type: ignore[import-untyped]
from minari.dataset.minari_dataset import parse_dataset_id  # type: ignore[import-untyped]
from minari.dataset.minari_storage import MinariStorage  # type: ignore[import-untyped]
from minari.namespace import create_namespace, list_local_namespaces  # type: ignore[import-untyped]
from minari.storage.datasets_root_dir import get_dataset_path  # type: ignore[import-untyped]

from leyline.client import Episode
from leyline.files.error import FOREIGN, FileRefused, NotExperience, NothingSelected
from leyline.files.source import check_step, parsed
from leyline.files.specs import Specs
from leyline.files.trajectory import Kind, buffer
from leyline.v1.experience_pb2 import EpisodeSummary
from leyline.v1.transition_pb2 import Transition

FORMAT_VERSION = "1"
STEPS_A_WRITE = 4096
RECORD = "record"
"""Among the infos: what an import reads."""

_METADATA = "leyline"


def local_path(dataset_id: str) -> Path:
    """Return where Minari has a data set of a name, if it has one.

    Raises:
        FileRefused: this is no name for a data set.
    """
    try:
        parse_dataset_id(dataset_id)
    except (ValueError, TypeError):
        raise FileRefused(
            f"{dataset_id} is neither NAME.parquet nor a data set's name for Minari, such as "
            "leyline/first-v0"
        ) from None
    return Path(get_dataset_path(dataset_id))


class MinariExport:
    """Writes one data set, which is in its place once the block has ended without an error.

    Memory holds some thousand steps.
    """

    def __init__(self, dataset_id: str, specs: Specs) -> None:
        """Prepare a data set, where Minari looks for its own.

        Args:
            dataset_id: `NAMESPACE/NAME-vN`; the namespace may be left out.

        Raises:
            FileRefused: there is one already, or this is no name for one.
        """
        self.path = local_path(dataset_id)
        if self.path.exists():
            raise FileRefused(f"{self.path} is there already: remove it, or choose another name")
        self._dataset_id = dataset_id
        # Hidden, so that Minari does not list what is not whole.
        self._partial = Path(get_dataset_path()) / f".{dataset_id.replace('/', '.')}.part"
        self._specs = specs
        self._kind: Kind | None = None
        self._first = ""
        self._policies: set[str] = set()
        self._waiting: list[EpisodeBuffer] = []
        self.episodes = 0
        """Episodes so far."""
        self.steps = 0
        """Steps so far."""
        self.left_out = 0
        """Episodes that Minari cannot hold: without steps, or with a gap."""

    def __enter__(self) -> Self:
        shutil.rmtree(self._partial, ignore_errors=True)
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
            shutil.rmtree(self._partial, ignore_errors=True)

    def add(self, episode: Episode) -> None:
        """Write the next episode.

        Raises:
            FileRefused: it is of another kind than those before, or its spec is not known.
        """
        steps = [step.step_id.step for step in episode.steps]
        if not steps or steps != list(range(len(steps))):
            self.left_out += 1
            return
        kind = self._checked(episode)
        self._policies.add(episode.head.policy)
        buffered = buffer(episode, kind, self._specs)
        summary = EpisodeSummary(head=episode.head, end=episode.end)
        buffered.infos[RECORD] = [_packed(message) for message in (summary, *episode.steps)]
        self._waiting.append(buffered)
        self.episodes += 1
        self.steps += len(episode.steps)
        if sum(map(len, self._waiting)) >= STEPS_A_WRITE:
            self._write()

    def _checked(self, episode: Episode) -> Kind:
        fingerprint = episode.head.spec_fingerprint
        spec = self._specs.get(fingerprint)
        if spec is None:
            raise FileRefused(
                f"{episode} has observations under a spec that nobody here knows, fingerprint "
                f"{fingerprint[:12]}: give it with --spec FILE"
            )
        kind = Kind(spec, episode.head.slots.exactly)
        if self._kind is None:
            self._kind, self._first = kind, str(episode)
            self._storage = self._new_storage(kind)
        elif kind != self._kind:
            raise FileRefused(
                f"a data set of Minari has one kind of observation, and there are two: "
                f"{self._first} has {self._kind}, {episode} has {kind}. "
                f"Select with --run, --version, --since or --until, or export to NAME.parquet"
            )
        return kind

    def _new_storage(self, kind: Kind) -> Any:
        data = self._partial / "data"
        data.mkdir(parents=True)
        storage = MinariStorage.new(
            data,
            observation_space=kind.observations,
            action_space=kind.actions,
            # Minari's default. Its other form looks at every file again with each episode.
            data_format="hdf5",
        )
        storage.update_metadata(
            {
                "dataset_id": self._dataset_id,
                "minari_version": minari.__version__,
                "description": _description(kind),
                _METADATA: {
                    "format_version": FORMAT_VERSION,
                    "observation_spec": kind.spec.name,
                    "spec_fingerprint": kind.spec.fingerprint,
                    "slots": kind.slots,
                },
            }
        )
        return storage

    def _write(self) -> None:
        self._storage.update_episodes(self._waiting)
        self._waiting = []

    def _finish(self) -> None:
        if not self.episodes:
            raise NothingSelected(self._dataset_id)
        self._write()
        self._storage.update_metadata({"algorithm_name": ", ".join(sorted(self._policies))})
        namespace, _, _ = parse_dataset_id(self._dataset_id)
        if namespace is not None and namespace not in list_local_namespaces():
            create_namespace(namespace)
        self._partial.replace(self.path)


def _description(kind: Kind) -> str:
    return (
        "Neural networks that grow while they train, under a policy. Observations: vectors of the "
        f"observation spec {kind.spec.name} for {kind.slots} slots. Actions: 0 is WAIT; "
        f"1 + {kind.slots} * k + p is GERMINATE, ADVANCE or CULL, for k = 0, 1, 2, at the slot in "
        "position p from the input on. Rewards: change of validation accuracy over the interval, "
        "as a fraction. An episode that came to its horizon is terminated, any other truncated. "
        "Written by leyline, which reads it again."
    )


def _packed(message: Message) -> str:
    """Return a message as text: Minari takes bytes for pictures. zlib adds a checksum."""
    data = zlib.compress(message.SerializeToString(deterministic=True))
    return base64.b64encode(data).decode("ascii")


class MinariSource:
    """Reads a data set that `MinariExport` wrote; memory holds one episode."""

    def __init__(self, path: Path) -> None:
        """Open a data set.

        Args:
            path: its folder, or the one within that is called `data`.

        Raises:
            NotExperience: it is something else, or of a later release.
        """
        self._path = path
        data = path / "data" if (path / "data").is_dir() else path
        try:
            self._storage = MinariStorage.read(data)
            self.total_steps = int(self._storage.total_steps)
            self._total = int(self._storage.total_episodes)
            written = self._storage.metadata.get(_METADATA, {"format_version": FORMAT_VERSION})
            version = str(written["format_version"])
        except Exception as error:  # whatever there may be in the folder
            why = f"it is no data set of Minari ({type(error).__name__}: {error})"
            raise NotExperience(path, why) from None
        if version != FORMAT_VERSION:
            why = f"it has format {version}, and this release reads {FORMAT_VERSION}"
            raise NotExperience(path, why)

    def episodes(self, run_id: str = "") -> Iterator[Episode]:
        """Yield its episodes one by one, of one run or of all."""
        stored = iter(self._storage.get_episodes(range(self._total)))
        for index in range(self._total):
            try:
                infos = next(stored)["infos"]
            except Exception as error:  # HDF5 has many ways to say that it cannot be read
                why = f"episode {index} is damaged ({type(error).__name__}: {error})"
                raise NotExperience(self._path, why) from None
            episode = self._episode(infos or {}, f"episode {index}")
            if run_id in ("", episode.head.run_id):
                yield episode

    def _episode(self, infos: dict[str, Any], where: str) -> Episode:
        if RECORD not in infos or len(infos[RECORD]) == 0:
            raise NotExperience(self._path, f"{where} has no info {RECORD}; {FOREIGN}")
        first, *rest = infos[RECORD]
        data = self._unpacked(first, f"{where}, {RECORD} 0")
        summary = parsed(EpisodeSummary, data, self._path, where)
        episode = Episode(summary.head, [], summary.end if summary.HasField("end") else None)
        for place, text in enumerate(rest, 1):
            here = f"{where}, {RECORD} {place}"
            step = parsed(Transition, self._unpacked(text, here), self._path, here)
            check_step(step, episode, self._path, here)
            episode.steps.append(step)
        return episode

    def _unpacked(self, text: bytes | str, where: str) -> bytes:
        try:
            return zlib.decompress(base64.b64decode(text, validate=True))
        except (ValueError, TypeError, zlib.error) as error:
            raise NotExperience(self._path, f"{where} is damaged ({error})") from None
