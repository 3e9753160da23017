"""Observation specs as options name them."""

from __future__ import annotations

from pathlib import Path

import typer

from leyline.document import Document
from leyline.observation import fingerprint, spec_by_name, spec_names
from leyline.v1.observation_pb2 import ObservationSpec


def read_spec(spec: str) -> ObservationSpec:
    """Return the spec of a name, or of a file, which may leave out its fingerprint.

    Raises:
        BadParameter: it is neither.
        InvalidDocument: the file is no spec.
    """
    if spec in spec_names():
        return spec_by_name(spec)
    path = Path(spec)
    if not path.exists():
        raise typer.BadParameter(
            f"--spec: {spec} is neither a file nor one of {', '.join(spec_names())}"
        )
    document = Document.read(path)
    if "fingerprint" in (key.value for key, _ in document.root.value):
        return document.message(ObservationSpec)
    document.change(f"fingerprint={'0' * 64}")
    made = document.message(ObservationSpec)
    made.fingerprint = fingerprint(made)
    return made
