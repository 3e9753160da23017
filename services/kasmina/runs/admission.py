"""What a specification has to pass before a run of it is queued."""

from __future__ import annotations

from kasmina.runs.kin import Kin
from kasmina.runs.run_checks import check
from kasmina.runs.run_defaults import fill_in
from kasmina.settings import KasminaSettings
from leyline.v1.trainer_pb2 import RunSpec


def admit(
    requested: RunSpec, settings: KasminaSettings, kin: Kin, *, driven: bool = False
) -> RunSpec:
    """The specification with its defaults. A `driven` run's caller decides, and not its policy.

    Raises:
        LeylineError: it cannot be run, or the data set is not there.
    """
    spec = fill_in(kin.resolve(requested), settings, driven=driven)
    check(spec, settings)
    kin.check_twin(spec, settings)
    return spec
