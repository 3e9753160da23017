"""Dashboards and rules ask for what the services show, and say what a reader needs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.observability.exposed import Labels, exposed
from tests.observability.files import (
    CONFIG,
    DASHBOARDS,
    JOBS,
    PROVISIONING,
    ROOT,
    RULE_TESTS,
    Query,
    alerts,
    dashboard,
    dashboard_queries,
    load,
    panels,
    rule_queries,
    rules,
)
from tests.observability.promql import Matcher, Selector, grouping_labels, selectors

PORTS = {"kasmina": 9151, "tamiyo": 9152, "simic": 9153}
SEVERITIES = {"critical", "warning", "info"}
# Labels that Prometheus puts on by itself.
OF_A_TARGET: Labels = {"job": set(JOBS), "instance": set()}
# No service says which codes there are; gRPC does.
CODES = {code.name for code in grpc.StatusCode}

QUERIES = [*dashboard_queries(), *rule_queries()]


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Labels]:
    """Names that may be asked for, with their labels and the values that those have."""
    found = {
        name: {**labels, **OF_A_TARGET}
        for name, labels in exposed(tmp_path_factory.mktemp("exposed")).items()
    }
    for name in found:
        if name.startswith("grpc_server_handled"):
            found[name]["grpc_code"] = CODES
    found["up"] = OF_A_TARGET
    found["ALERTS"] = {
        "alertname": {alert["alert"] for alert in alerts()},
        "alertstate": {"pending", "firing"},
    }
    for rule in rules():
        if "record" in rule:
            labels = grouping_labels(rule["expr"]) - {"le"}
            found[rule["record"]] = {
                label: CODES if label == "grpc_code" else set() for label in labels
            }
    return found


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.where)
def test_what_is_asked_for_is_shown_by_a_service(query: Query, known: dict[str, Labels]) -> None:
    asked = list(selectors(query.expression))
    assert asked
    labels: set[str] = set()
    for selector in asked:
        found = _meant(selector, known)
        assert found, f"no metric is {selector}"
        labels |= {label for name in found for label in known[name]}
    assert grouping_labels(query.expression) <= labels


def _meant(selector: Selector, known: dict[str, Labels]) -> list[str]:
    """Metrics that a selector finds; each of its conditions must be fulfilled by something."""
    names = [each for each in selector.matchers if each.label == "__name__"]
    others = [each for each in selector.matchers if each.label != "__name__"]
    return [
        name
        for name, labels in known.items()
        if all(each.accepts(name) for each in names)
        and all(_is_possible(each, labels) for each in others)
    ]


def _is_possible(matcher: Matcher, labels: Labels) -> bool:
    """Whether the label is there, and each of the values that the matcher names occurs."""
    if matcher.label not in labels:
        return False
    if matcher.value == "$job":
        return True
    values = labels[matcher.label]
    wanted = matcher.value.split("|") if matcher.operator in ("=~", "!~") else [matcher.value]
    return all(any(re.fullmatch(each, value) for value in values) for each in wanted)


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("up == 0", ['{__name__="up"}']),
        ('a{b="c", d!~"e|f"} > bool 1', ['{__name__="a", b="c", d!~"e|f"}']),
        ('sum by (le) (rate(a_bucket{b="x,}"}[5m]))', ['{__name__="a_bucket", b="x,}"}']),
        (
            "a offset 1h / on (job) group_left () (b > 0) or vector(0)",
            ['{__name__="a"}', '{__name__="b"}'],
        ),
        ('{__name__=~"a_.+"} * 2', ['{__name__=~"a_.+"}']),
        ("sum(a) without (b)", ['{__name__="a"}']),
        ("a:b:rate5m and c", ['{__name__="a:b:rate5m"}', '{__name__="c"}']),
    ],
)
def test_selectors_are_found_in_an_expression(expression: str, found: list[str]) -> None:
    assert [str(selector) for selector in selectors(expression)] == found


@pytest.mark.parametrize(
    "asked", ["leyline_stepz_total", 'leyline_runs{state="FAILE"}', 'up{run="1"}']
)
def test_what_nobody_shows_is_found_out(asked: str, known: dict[str, Labels]) -> None:
    [selector] = selectors(asked)
    assert not _meant(selector, known)


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: str(alert["alert"]))
def test_an_alert_says_what_happened_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in SEVERITIES
    said = alert["annotations"]
    assert said.keys() == {"summary", "description", "runbook"}
    assert len(said["summary"]) < 80
    assert len(said["description"].split(". ")) >= 2
    words = re.findall("[A-Z][a-z]+", alert["alert"].removeprefix("Leyline"))
    assert said["runbook"] == f"docs/operations.md#{'-'.join(words).lower()}"


def test_every_runbook_is_there() -> None:
    document = (ROOT / "docs" / "operations.md").read_text()
    headings = re.findall(r"^#+ (.+)$", document, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    wanted = {alert["annotations"]["runbook"].partition("#")[2] for alert in alerts()}
    assert wanted <= anchors


def test_every_alert_is_shown_to_begin_and_to_end() -> None:
    fired = set(re.findall(r'exp_samples: .*alertname="(\w+)"', RULE_TESTS.read_text()))
    assert fired == {alert["alert"] for alert in alerts()}
    for case in load(RULE_TESTS)["tests"]:
        expected = [each.get("exp_samples", []) for each in case["promql_expr_test"]]
        assert expected[-1] == [], f"{case['name']}: it does not end"


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: str(file.name))
def test_a_dashboard_is_written_as_one_writes_json(file: Path) -> None:
    text = file.read_text()
    assert text == json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: str(file.name))
def test_every_panel_says_what_it_shows_and_in_what(file: Path) -> None:
    for panel in panels(file):
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        legends = [target.get("legendFormat") for target in panel["targets"]]
        assert panel["type"] == "stat" or all(legends), panel["title"]


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: str(file.name))
def test_panels_have_places_and_numbers_of_their_own(file: Path) -> None:
    found = dashboard(file)["panels"]
    assert len({panel["id"] for panel in found}) == len(found)
    taken: set[tuple[int, int]] = set()
    for panel in found:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not taken & cells, panel["title"]
        taken |= cells


def test_dashboards_ask_the_data_source_that_is_provisioned() -> None:
    [source] = load(PROVISIONING / "datasources" / "prometheus.yml")["datasources"]
    wanted = {"type": source["type"], "uid": source["uid"]}
    assert wanted == {"type": "prometheus", "uid": "prometheus"}
    for file in DASHBOARDS:
        asking = [*panels(file), *dashboard(file)["templating"]["list"]]
        assert all(each["datasource"] == wanted for each in asking)
    assert len({dashboard(file)["uid"] for file in DASHBOARDS}) == len(DASHBOARDS)


def test_every_service_is_scraped_with_a_certificate() -> None:
    found = {job["job_name"]: job for job in load(CONFIG)["scrape_configs"]}
    assert found.keys() == PORTS.keys()
    for name, job in found.items():
        assert job["scheme"] == "https"
        assert job["tls_config"] == {
            "ca_file": "/certs/prometheus/ca.pem",
            "cert_file": "/certs/prometheus/certificate.pem",
            "key_file": "/certs/prometheus/key.pem",
        }
        assert job["static_configs"] == [{"targets": [f"{name}:{PORTS[name]}"]}]


def test_the_document_names_what_there_is() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    for file in DASHBOARDS:
        assert dashboard(file)["title"].partition(": ")[2] in page
    for name, port in PORTS.items():
        assert f"{name}:{port}" in page
