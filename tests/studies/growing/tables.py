"""The study's numbers as Markdown tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from tests.paired import bootstrap_interval
from tests.studies.growing.comparing import LEARNED, Played
from tests.studies.growing.outcomes import Outcome
from tests.studies.growing.preset import CHANNELS, SLOTS
from tests.studies.growing.schedules import NOTHING

ACTIONS = ("GERMINATE", "ADVANCE", "CULL")

Measure = Callable[[Outcome], float]
MEASURES: Mapping[str, Measure] = {
    "accuracy": lambda outcome: outcome.accuracy,
    "accuracy less rent": lambda outcome: outcome.score,
}


def differences(played: Played, arm: str, other: str, measure: Measure) -> list[float]:
    """One arm less another, episode by episode, in points."""
    return [
        measure(outcome) - measure(played[other][index]) for index, outcome in played[arm].items()
    ]


def compared(played: Played) -> dict[str, dict[str, list[float]]]:
    """Each arm less the waiting one, and what was learned less each arm, by title and arm."""
    found: dict[str, dict[str, list[float]]] = {}
    for name, measure in MEASURES.items():
        found[f"{name}, less {NOTHING}"] = {
            arm: differences(played, arm, NOTHING, measure) for arm in played
        }
        found[f"{name}, {LEARNED} less this"] = {
            arm: differences(played, LEARNED, arm, measure) for arm in played
        }
    return found


def comparison(played: Played) -> str:
    """A row for each arm: means and 95 % bootstrap intervals, in points."""
    titles = compared(played)
    lines = [
        f"| arm | accuracy | {' | '.join(titles)} | seconds an episode |",
        "|---|---|---" + "|---" * len(titles) + "|",
    ]
    for arm, outcomes in played.items():
        accuracy = statistics.fmean(outcome.accuracy for outcome in outcomes.values())
        cells = [with_interval(by_arm[arm]) for by_arm in titles.values()]
        seconds = statistics.fmean(outcome.seconds for outcome in outcomes.values())
        lines.append(f"| {arm} | {accuracy:.2f} % | {' | '.join(cells)} | {seconds:.1f} |")
    return "\n".join(lines)


def with_interval(values: Sequence[float]) -> str:
    """Mean and 95 % bootstrap interval; a dash where an arm is compared with itself."""
    if not any(values):
        return "-"
    low, high = bootstrap_interval(values)
    return f"{statistics.fmean(values):+.2f} ({low:+.2f} to {high:+.2f})"


def groups(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    """The episodes by each thing in which situations differ."""
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        situation = outcome.situation
        narrow = [
            place
            for place, (own, host) in enumerate(zip(situation["channels"], CHANNELS, strict=True))
            if own < host
        ]
        names = [
            "all",
            f"{situation['training images']:,} images",
            f"label noise {situation['label noise']:.0%}",
            f"bottleneck at {SLOTS[narrow[0]]}" if narrow else "no bottleneck",
            "blueprint is a dud" if situation["duds"] else "blueprint is no dud",
        ]
        for name in names:
            found.setdefault(name, []).append(outcome)
    order = sorted(found, key=lambda name: (name != "all", _kind(name), _number(name), name))
    return {name: found[name] for name in order}


def _kind(name: str) -> int:
    kinds = ("images", "label noise", "bottleneck", "dud")
    return next((place for place, kind in enumerate(kinds) if kind in name), -1)


def _number(name: str) -> int:
    return int("".join(letter for letter in name if letter.isdigit()) or 0)


def shares(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Shares of all decisions by action and slot, of no-ops, and seeds that stayed by slot."""
    acts = [act for outcome in outcomes for act in outcome.acts]
    found = {"WAIT": sum(act.action == "WAIT" for act in acts) / len(acts)}
    for slot in SLOTS:
        for action in ACTIONS:
            mine = sum(act.action == action and act.slot == slot for act in acts)
            found[f"{action} {slot}"] = mine / len(acts)
    found["no-op"] = sum(not act.executed for act in acts) / len(acts)
    for slot in SLOTS:
        found[f"kept {slot}"] = sum(slot in one.kept for one in outcomes) / len(outcomes)
    return found


def actions(outcomes: Iterable[Outcome]) -> str:
    """A row for each group of situations: shares in percent."""
    slots = " | ".join(f"{slot}: G / A / C" for slot in SLOTS)
    kept = " | ".join(f"kept at {slot}" for slot in SLOTS)
    lines = [
        f"| situations | episodes | WAIT | {slots} | no-ops | {kept} |",
        "|---|---|---" + "|---" * (2 * len(SLOTS) + 1) + "|",
    ]
    for name, mine in groups(outcomes).items():
        of = shares(mine)
        by_slot = [
            " / ".join(f"{100 * of[f'{action} {slot}']:.0f}" for action in ACTIONS)
            for slot in SLOTS
        ]
        stayed = [f"{100 * of[f'kept {slot}']:.0f} %" for slot in SLOTS]
        cells = [f"{100 * of['WAIT']:.0f} %", *by_slot, f"{100 * of['no-op']:.0f} %", *stayed]
        lines.append(f"| {name} | {len(mine)} | {' | '.join(cells)} |")
    return "\n".join(lines)
