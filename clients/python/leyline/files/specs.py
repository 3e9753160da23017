"""Snapshots as vectors, each by the observation spec that it was filled for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from leyline.observation import Vectorizer, spec_by_name, spec_names
from leyline.v1.observation_pb2 import ObservationSpec
from leyline.v1.snapshot_pb2 import MultiSlotSnapshot


class Specs:
    """The observation specs that have a name here, and one of a user's own."""

    def __init__(self, own: ObservationSpec | None = None) -> None:
        """Take a spec that nobody here knows by its fingerprint, too.

        Raises:
            BadSpec: it fits no snapshot.
        """
        specs = [spec_by_name(name) for name in spec_names()]
        if own is not None:
            specs.append(own)
        self._specs = {spec.fingerprint: spec for spec in specs}
        self._vectorizers = {spec.fingerprint: Vectorizer(spec) for spec in specs}

    def get(self, fingerprint: str) -> ObservationSpec | None:
        """Return the spec of a fingerprint; None where it is not known."""
        return self._specs.get(fingerprint)

    def vector(self, snapshot: MultiSlotSnapshot, fingerprint: str) -> NDArray[np.float32] | None:
        """Return what a policy's network sees of a snapshot; None where the spec is not known."""
        vectorizer = self._vectorizers.get(fingerprint)
        return None if vectorizer is None else vectorizer(snapshot)
