"""Whether an implementation of `leyline.v1.PolicyService` keeps the contract.

The cases are data (`cases/*.yaml`, and one for each golden snapshot and invalid message of
`testdata`, which is the repository's `proto/testdata`); what they ask for is done by the functions
of `checks`. `leyline conformance` runs them against a server; so does `run_cases`.
"""

from leyline.conformance.case import Case, Level, load_cases
from leyline.conformance.suite import Outcome, Result, run_cases
from leyline.conformance.target import Target, Unreachable

__all__ = [
    "Case",
    "Level",
    "Outcome",
    "Result",
    "Target",
    "Unreachable",
    "load_cases",
    "run_cases",
]
