"""Plays policies on a family of the growth simulator: `python -m kasmina.simulator`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kasmina.simulator.benchmark import steps_a_second
from kasmina.simulator.calibration import calibrate
from kasmina.simulator.parameters import (
    FROZEN,
    Parameters,
    ParametersError,
    load_family,
    load_parameters,
)
from kasmina.simulator.policies import POLICIES
from kasmina.simulator.situation import SimulationSeeds

_EXAMPLES = """examples:
  python -m kasmina.simulator
  python -m kasmina.simulator --family held-out --policy heuristic --policy random
  python -m kasmina.simulator --slots 6 --policy clairvoyant --episodes 50 --json
  python -m kasmina.simulator --file my-family.toml

Scores are shares of what the oracle's bound says can be gained over always waiting, by the true
accuracy at the end. docs/simulator.md says what is simulated.
"""


@dataclass(frozen=True)
class PolicyReport:
    """What one policy did; accuracies in percentage points."""

    policy: str
    score: float | None
    standard_error: float | None
    gain_points: float
    bound_points: float


@dataclass(frozen=True)
class Report:
    """What was played and what came of it."""

    family: str
    slots: int
    horizon: int
    episodes: int
    seed: int
    steps_a_second: float
    policies: tuple[PolicyReport, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Plays and prints. Exit code 2: the arguments or the file cannot be used."""
    options = _parser().parse_args(arguments)
    try:
        parameters = _parameters(options)
    except ParametersError as error:
        print(f"kasmina.simulator: {error}", file=sys.stderr)
        return 2
    report = _report(parameters, options)
    print(json.dumps(asdict(report), indent=2) if options.json else _text(report))
    return 0


def _report(parameters: Parameters, options: argparse.Namespace) -> Report:
    episodes = [
        SimulationSeeds.of_episode(options.seed, index) for index in range(options.episodes)
    ]
    found = []
    for name in options.policy or ("random", "heuristic", "clairvoyant"):
        result = calibrate(parameters, episodes, POLICIES[name])
        found.append(
            PolicyReport(
                policy=name,
                score=result.mean,
                standard_error=result.standard_error,
                gain_points=100 * result.mean_gain,
                bound_points=100 * result.mean_bound,
            )
        )
    return Report(
        family=str(options.file or options.family),
        slots=parameters.episode.slots,
        horizon=parameters.episode.horizon,
        episodes=options.episodes,
        seed=options.seed,
        steps_a_second=steps_a_second(parameters, options.episodes, options.seed),
        policies=tuple(found),
    )


def _text(report: Report) -> str:
    lines = [
        f"family {report.family}: {report.slots} slots, horizon {report.horizon}, "
        f"{report.episodes} episodes of seed {report.seed}",
        f"{report.steps_a_second:,.0f} steps a second",
        "",
        "policy         score  ± s.e.   gain   bound (points)",
    ]
    for row in report.policies:
        score = "     -" if row.score is None else f"{row.score:6.3f}"
        error = "     -" if row.standard_error is None else f"{row.standard_error:6.3f}"
        lines.append(
            f"{row.policy:13} {score}  {error}  {row.gain_points:5.2f}   {row.bound_points:5.2f}"
        )
    return "\n".join(lines)


def _parameters(options: argparse.Namespace) -> Parameters:
    parameters = load_parameters(options.file) if options.file else load_family(options.family)
    changes = {
        name: getattr(options, name)
        for name in ("slots", "horizon")
        if getattr(options, name) is not None
    }
    return parameters.with_episode(**changes) if changes else parameters


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m kasmina.simulator",
        description="Plays policies on a family of the growth simulator and scores them.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    family = parser.add_mutually_exclusive_group()
    family.add_argument("--family", choices=tuple(FROZEN), default="default", help="a shipped one")
    family.add_argument("--file", type=Path, help="a family of your own, as TOML")
    parser.add_argument(
        "--policy",
        action="append",
        choices=tuple(POLICIES),
        help="may be given more than once; all but wait if not given",
    )
    parser.add_argument("--episodes", type=_positive, default=200, help="how many; 200")
    parser.add_argument("--seed", type=int, default=1, help="root of all randomness; 1")
    parser.add_argument("--slots", type=_positive, help="instead of the family's own number")
    parser.add_argument("--horizon", type=_positive, help="instead of the family's own")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
