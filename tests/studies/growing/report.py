"""The stage `report`: what there is so far, as tables, a JSON file and a picture."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from tests.paired import bootstrap_interval
from tests.studies.growing.comparing import LEARNED, SAMPLED, Played, played
from tests.studies.growing.outcomes import Outcome
from tests.studies.growing.preset import SLOTS, Preset
from tests.studies.growing.services import Services
from tests.studies.growing.state import State
from tests.studies.growing.tables import ACTIONS, actions, compared, comparison, groups, shares
from tests.studies.growing.training import TRAINING

from leyline.client import Learner
from leyline.error import ServiceError
from simic.learning.reward import POINTS_A_UNIT

_COLOURS = {"GERMINATE": "#f2d16b", "ADVANCE": "#5aa469", "CULL": "#b03030"}
_MEAN_OF = 5
"""Updates in a moving mean."""


@dataclass(frozen=True)
class Update:
    """One update of the training.

    Attributes:
        minutes: since the training began, by the clock on the wall, pauses included.
        score: mean of its episodes, points: final accuracy less rent, less the twin's where there
            are twins.
    """

    number: int
    minutes: float
    episodes: int
    score: float
    wait_share: float | None
    alarms: Sequence[str]


async def gather(
    services: Services, state: State, preset: Preset, episodes: int
) -> tuple[list[Update], dict[str, Played]]:
    """The updates so far, and the episodes that all arms have, by the range of situations."""
    async with services.learner() as learner, services.experience() as experience:
        updates = await _updates(learner)
        tables = {}
        for title, held_out in (("mixed", False), ("held-out", True)):
            of = await played(experience, state, preset, episodes=episodes, held_out=held_out)
            if any(of.values()):
                tables[title] = of
    return updates, tables


async def _updates(learner: Learner) -> list[Update]:
    try:
        training = await learner.get(TRAINING)
    except ServiceError as error:
        if error.reason == "TRAINING_NOT_FOUND":
            return []
        raise
    found: list[Update] = []
    if training.updates == 0:
        return found
    async for each in learner.watch(TRAINING):
        seconds = each.time.ToNanoseconds() - training.started_at.ToNanoseconds()
        found.append(
            Update(
                number=each.sequence,
                minutes=round(seconds / 60e9, 2),
                episodes=each.episodes,
                score=round(each.mean_return * POINTS_A_UNIT, 3),
                wait_share=each.diagnostics.get("wait_share"),
                alarms=list(each.alarms),
            )
        )
        if each.sequence >= training.updates:
            break
    return found


def text(state: State, updates: Sequence[Update], tables: Mapping[str, Played]) -> str:
    """What there is, as Markdown."""
    parts = [_curve(updates), _time(state)]
    if state.schedule:
        parts.append(f"The best fixed schedule of the search: `{state.schedule}`.")
    for title, of in tables.items():
        count = len(of[LEARNED])
        parts += [
            f"## {count} paired episodes an arm, situations `{title}`",
            "In points: the mean of paired differences and its 95 % interval (bootstrap over"
            " episodes).",
            comparison(of),
        ]
        parts += [
            f"### Decisions of {arm}, shares in percent\n\n{actions(of[arm].values())}"
            for arm in (LEARNED, SAMPLED)
        ]
    if not tables:
        parts.append("Nothing is compared yet.")
    return "\n\n".join(parts)


def _curve(updates: Sequence[Update]) -> str:
    if not updates:
        return "Nothing is learned yet."
    first, last = updates[:_MEAN_OF], updates[-_MEAN_OF:]
    episodes = sum(update.episodes for update in updates)
    lines = [
        f"{len(updates)} updates from {episodes} episodes. Mean score of the first {len(first)}"
        f" updates {np.mean([each.score for each in first]):+.2f} points, of the last"
        f" {len(last)} {np.mean([each.score for each in last]):+.2f}."
    ]
    lines += [
        f"Alarm at update {each.number}: {alarm}." for each in updates for alarm in each.alarms
    ]
    return "\n".join(lines)


def _time(state: State) -> str:
    took = [f"{stage} {seconds / 60:.1f} min" for stage, seconds in state.seconds.items()]
    return f"Wall time: {', '.join(took) or 'none'}; preset {state.config['preset']}."


def record(state: State, updates: Sequence[Update], tables: Mapping[str, Played]) -> dict[str, Any]:
    """All of it, as JSON has it."""
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "config": dict(state.config),
        "seconds": {stage: round(seconds, 1) for stage, seconds in state.seconds.items()},
        "version": state.version,
        "schedule": state.schedule,
        "searched": state.searched,
        "updates": [dataclasses.asdict(update) for update in updates],
        "compared": {title: _compared(of) for title, of in tables.items()},
    }


def _compared(of: Played) -> dict[str, Any]:
    return {
        "differences": {
            title: {
                arm: {
                    "mean": round(float(np.mean(values)), 3),
                    "interval": [round(end, 3) for end in bootstrap_interval(values)],
                    "each": [round(value, 3) for value in values],
                }
                for arm, values in by_arm.items()
            }
            for title, by_arm in compared(of).items()
        },
        "shares": {
            arm: {name: shares(mine) for name, mine in groups(of[arm].values()).items()}
            for arm in (LEARNED, SAMPLED)
        },
        "episodes": {
            arm: [_episode(outcome) for outcome in outcomes.values()]
            for arm, outcomes in of.items()
        },
    }


def _episode(outcome: Outcome) -> dict[str, Any]:
    values = dataclasses.asdict(outcome)
    values["acts"] = " ".join(
        f"{act.action[0]}{act.slot.removeprefix('slot-')}{'' if act.executed else '!'}"
        for act in outcome.acts
    )
    rounded = {name: round(values[name], 3) for name in ("accuracy", "rent", "seconds")}
    return values | rounded


def draw(updates: Sequence[Update], tables: Mapping[str, Played], path: Path) -> None:
    """The learning curve, and below it the shares of actions for each range that was played."""
    figure, axes = plt.subplots(
        1 + len(tables), 1, figsize=(10, 4.5 + 4.5 * len(tables)), squeeze=False
    )
    _draw_curve(axes[0][0], updates)
    for axis, (title, of) in zip(axes[1:, 0], tables.items(), strict=True):
        _draw_shares(axis, title, list(of[SAMPLED].values()))
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_curve(axis: Any, updates: Sequence[Update]) -> None:
    numbers = [update.number for update in updates]
    scores = [update.score for update in updates]
    axis.plot(numbers, scores, ".", color="C0", alpha=0.5, label="an update's episodes")
    means = [np.mean(scores[max(0, end - _MEAN_OF) : end]) for end in range(1, len(scores) + 1)]
    axis.plot(numbers, means, color="C0", lw=2, label=f"mean of {_MEAN_OF} updates")
    axis.axhline(0, color="black", lw=0.8)
    axis.set_xlabel("update")
    axis.set_ylabel("score, points")
    axis.grid(alpha=0.3)
    waits = axis.twinx()
    known = [(each.number, each.wait_share) for each in updates if each.wait_share is not None]
    waits.plot(*zip(*known, strict=True), color="C7", lw=1) if known else None
    waits.set_ylim(0, 1)
    waits.set_ylabel("share of WAIT (grey)")
    axis.legend(fontsize="small")


def _draw_shares(axis: Any, title: str, outcomes: Sequence[Outcome]) -> None:
    """A bar for each group of situations and slot, one upon the other by action."""
    named = groups(outcomes)
    width = 0.8 / len(SLOTS)
    for place, mine in enumerate(named.values()):
        of = shares(mine)
        for number, slot in enumerate(SLOTS):
            below = 0.0
            for action in ACTIONS:
                share = 100 * of[f"{action} {slot}"]
                left = place - 0.4 + number * width
                axis.bar(left, share, 0.9 * width, below, align="edge", color=_COLOURS[action])
                below += share
    for action, colour in _COLOURS.items():
        axis.bar(0, 0, color=colour, label=action)
    labels = [f"{name}\n{len(mine)}" for name, mine in named.items()]
    axis.set_xticks(range(len(named)), labels, fontsize="x-small", rotation=20)
    axis.set_ylabel(f"decisions for {', '.join(SLOTS)}, %")
    axis.set_title(f"{SAMPLED}: decisions by slot and situation, {title}")
    axis.grid(axis="y", alpha=0.3)
    axis.legend(fontsize="small")


def write(state: State, updates: Sequence[Update], tables: Mapping[str, Played], out: Path) -> None:
    """Writes the JSON file and the picture beside it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record(state, updates, tables), indent=1) + "\n")
    draw(updates, tables, out.with_suffix(".png"))
