"""What came of a demonstration, and whether it adds up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from leyline.demo.session import Demonstration
from leyline.record import action_name


def summarize(demonstration: Demonstration) -> dict[str, Any]:
    """Return what came of it, as JSON has it. Accuracies are fractions, times are seconds."""
    record, stored = demonstration.record, demonstration.stored
    no_ops = Counter(step.no_op_reason for step in record.steps if step.no_op_reason)
    return {
        "preset": demonstration.preset.name,
        "dataset": demonstration.dataset,
        "run_id": demonstration.run_id,
        "episodes": [
            {
                "episode_index": episode.index,
                "policy_version": episode.policy_version,
                "final_accuracy": episode.accuracies[-1],
                "best_accuracy": max(episode.accuracies),
            }
            for _, episode in sorted(record.episodes.items())
            if episode.completed
        ],
        "decisions": [
            {
                "action": action_name(count.action_type),
                "slot_id": count.slot_id or None,
                "steps": count.steps,
                "no_ops": count.no_ops,
            }
            for count in stored.actions
        ],
        "no_ops": dict(no_ops.most_common()),
        "steps": demonstration.run.steps_completed,
        "transitions_stored": stored.transitions,
        "fallbacks": stored.fallback_steps,
        "versions": list(_versions(demonstration)),
        "first_decision_s": demonstration.first_decision_s,
        "seconds": demonstration.seconds,
        "problems": list(_problems(demonstration)),
    }


def _versions(demonstration: Demonstration) -> Iterator[dict[str, Any]]:
    """The versions of this demonstration, oldest first."""
    made = {update.policy_version: update for update in demonstration.updates}
    decided = {count.policy_version: count for count in demonstration.stored.versions}
    for manifest in demonstration.manifests:
        version = manifest.policy_version
        if version not in made and version not in decided:
            continue  # of another training
        update, count = made.get(version), decided.get(version)
        yield {
            "policy_version": version,
            "ordinal": manifest.ordinal,
            "gradient_steps": update.gradient_steps if update else 0,
            "mean_return": update.mean_return if update else None,
            "steps": count.steps if count else 0,
            "episodes": count.episodes if count else 0,
        }


def _problems(demonstration: Demonstration) -> Iterator[str]:
    """What does not add up."""
    stored, run = demonstration.stored, demonstration.run
    if run.steps_completed != demonstration.steps:
        yield f"{run.steps_completed} steps were taken instead of {demonstration.steps}"
    if stored.transitions != run.steps_completed:
        yield f"{stored.transitions} transitions are stored of {run.steps_completed} steps"
    if stored.episodes_ended != demonstration.preset.episodes:
        yield f"{stored.episodes_ended} of {demonstration.preset.episodes} episodes have ended"
    for index, versions in demonstration.versions_stored.items():
        if len(versions) > 1:
            yield f"episode {index} was decided by {len(versions)} versions"
    learned = {
        update.policy_version for update in demonstration.updates if update.gradient_steps > 0
    } - {demonstration.initial_version}
    if len(learned) < demonstration.expected_updates:
        yield f"{len(learned)} learned versions are fewer than {demonstration.expected_updates}"


def print_summary(summary: dict[str, Any], files: dict[str, str], console: Console) -> None:
    """Print it for people. Accuracies are percentages there.

    Args:
        summary: what `summarize` returned.
        files: what there is to look at, by name.
        console: where to.
    """
    console.print()
    console.print(Group(_episode_table(summary), "", _decision_table(summary), ""))
    no_ops = ", ".join(f"{reason} {count}" for reason, count in summary["no_ops"].items())
    versions = summary["versions"]
    learned = sum(1 for version in versions if version["gradient_steps"])
    steps = sum(version["gradient_steps"] for version in versions)
    facts = {
        "data set": f"{summary['dataset']}, preset {summary['preset']}",
        "no-ops": no_ops or "none",
        "transitions": f"{summary['transitions_stored']} stored of {summary['steps']} steps taken",
        "fallbacks": str(summary["fallbacks"]),
        "policy versions": f"{len(versions)}, {learned} learned in {steps} gradient steps",
        "time": f"{summary['seconds']:.0f} s, first decision after "
        f"{summary['first_decision_s'] or 0:.0f} s",
        **files,
    }
    for name, fact in facts.items():
        console.print(Text(f"{name:16}", style="bold") + Text(fact), soft_wrap=True)
    for problem in summary["problems"]:
        console.print(Text(f"does not add up: {problem}", style="bold red"), soft_wrap=True)


def _episode_table(summary: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("episode", "accuracy", "best"):
        table.add_column(column, justify="right")
    table.add_column("policy version")
    best = max((episode["final_accuracy"] for episode in summary["episodes"]), default=0)
    for episode in summary["episodes"]:
        table.add_row(
            str(episode["episode_index"]),
            f"{100 * episode['final_accuracy']:.1f} %",
            f"{100 * episode['best_accuracy']:.1f} %",
            episode["policy_version"],
            style="green" if episode["final_accuracy"] == best else None,
        )
    return table


def _decision_table(summary: dict[str, Any]) -> Table:
    slots = sorted({count["slot_id"] for count in summary["decisions"] if count["slot_id"]})
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("decisions (no-ops)")
    for column in ("no slot", *slots):
        table.add_column(column, justify="right")
    cells = {(count["action"], count["slot_id"]): count for count in summary["decisions"]}
    for action in dict.fromkeys(count["action"] for count in summary["decisions"]):
        table.add_row(action, *(_cell(cells.get((action, slot))) for slot in (None, *slots)))
    return table


def _cell(count: dict[str, Any] | None) -> str:
    if count is None:
        return ""
    return f"{count['steps']} ({count['no_ops']})" if count["no_ops"] else str(count["steps"])
