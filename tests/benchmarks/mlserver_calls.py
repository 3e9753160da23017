"""The same load with a call for each query, the way in that every server of the V2 protocol has."""

from __future__ import annotations

from tests.benchmarks.decision_load import main
from tests.benchmarks.mlserver_load import BY_CALLS

if __name__ == "__main__":
    main(BY_CALLS)
