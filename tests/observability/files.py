"""What stands in deploy/observability: the dashboards' panels and the rules, taken apart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "observability"
CONFIG = FOLDER / "prometheus.yml"
RULES = FOLDER / "alerts.yml"
RULE_TESTS = Path(__file__).with_name("alerts_test.yml")
DASHBOARDS = sorted((FOLDER / "grafana" / "dashboards").glob("*.json"))
PROVISIONING = FOLDER / "grafana" / "provisioning"
JOBS = ("kasmina", "tamiyo", "simic")


@dataclass(frozen=True)
class Query:
    """An expression, and where it stands."""

    where: str
    expression: str


def load(file: Path) -> Any:
    """What a YAML file says."""
    return yaml.safe_load(file.read_text())


def dashboard(file: Path) -> dict[str, Any]:
    """A dashboard."""
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def panels(file: Path) -> list[dict[str, Any]]:
    """Its panels, without the rows that are only headings."""
    return [panel for panel in dashboard(file)["panels"] if panel["type"] != "row"]


def dashboard_queries() -> Iterator[Query]:
    """Every query of every panel."""
    for file in DASHBOARDS:
        for panel in panels(file):
            for target in panel["targets"]:
                yield Query(f"{file.name}: {panel['title']} {target['refId']}", target["expr"])


def rules() -> list[dict[str, Any]]:
    """Every rule, recording ones and alerts."""
    return [rule for group in load(RULES)["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    """The alerts alone."""
    return [rule for rule in rules() if "alert" in rule]


def rule_queries() -> Iterator[Query]:
    """Every rule's expression."""
    for rule in rules():
        yield Query(rule.get("alert") or rule["record"], rule["expr"])
