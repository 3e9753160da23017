"""A real Prometheus beside the stack: every panel and every rule finds its numbers.

Configuration, rules and dashboards are as they are shipped, but that each service is asked every
second.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import yaml
from tests.containers.prometheus import Prometheus
from tests.containers.stack import BUILD_S, SERVICES, Stack, docker, stack
from tests.e2e.readme import ROOT
from tests.kasmina.running import simulated_spec
from tests.observability.files import (
    CONFIG,
    JOBS,
    RULE_TESTS,
    Query,
    dashboard_queries,
    load,
    rule_queries,
)
from tests.observability.promql import selectors

from leyline.client import Learner, PolicyServer, Trainer
from leyline.error import ServiceError
from leyline.v1.decision_pb2 import DecisionQuery
from leyline.v1.policy_pb2 import DecideRequest, StreamDecisionsRequest

pytestmark = pytest.mark.timeout(BUILD_S)

# Long, because the machine may have more to do: what is there is found at once.
PATIENCE_S = 600.0
# As Grafana would choose it for scrapes 15 s apart, in scrapes: four and one.
RATE_INTERVAL = "5s"
OVERRIDE = """
services:
  prometheus:
    volumes: ["{config}:/etc/leyline/prometheus.yml:ro"]
"""


def promtool(*arguments: str) -> None:
    mounted = ("--volume", f"{ROOT}:/src:ro", "--entrypoint", "promtool", "leyline-prometheus")
    # The tester's files need not be for everybody to read.
    docker("run", "--rm", "--network", "none", "--user", "0", *mounted, *arguments)


def test_the_configuration_and_the_rules_are_valid(images: None) -> None:
    # Whether its files are there is another question than whether it is right.
    promtool("check", "config", "--syntax-only", "/etc/leyline/prometheus.yml")
    promtool("check", "rules", "/etc/leyline/alerts.yml")


def test_each_alert_begins_where_it_should_and_ends(images: None) -> None:
    promtool("test", "rules", f"/src/{RULE_TESTS.relative_to(ROOT)}")


def test_every_panel_and_every_rule_finds_its_numbers(folder: Path) -> None:
    """The stack with its training, runs of the growth simulator, and calls that are refused.

    A panel is satisfied by a number of its query at any moment since the start, which is what
    Grafana would draw. Of a rule the selectors are asked for, each without its range and offset: an
    alert's expression must find nothing while all is well, and hours cannot be waited for. The code
    of a call may be any there, as a service that is well never says INTERNAL. Whether the
    expressions work out is seen all the same: Prometheus evaluates each rule every second, and
    none may fail.
    """
    config = load(CONFIG)
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    often, override = folder / "prometheus.yml", folder / "override.yml"
    often.write_text(yaml.safe_dump(config))
    often.chmod(0o644)
    override.write_text(OVERRIDE.format(config=often))
    with stack(folder, [override]) as one:
        prometheus = Prometheus(one.address("prometheus"))
        one.up(*SERVICES, "prometheus")
        asyncio.run(found_in_time(one, prometheus, [*asked_by_panels(), *asked_by_rules()]))
        assert prometheus.labels("job", "grpc_server_started_total") == sorted(JOBS)
        assert [rule for rule in prometheus.rules() if rule["health"] != "ok"] == []


async def found_in_time(one: Stack, prometheus: Prometheus, missing: list[Query]) -> None:
    """Play until every query has had a number."""
    credentials, deadline = one.credentials(), time.monotonic() + PATIENCE_S
    async with (
        Learner(one.address("simic"), credentials) as learner,
        Trainer(one.address("kasmina"), credentials) as trainer,
        PolicyServer(one.address("tamiyo"), credentials) as policy,
    ):
        for number in itertools.count():
            spec = simulated_spec(horizon=20, episodes=4, seed=number)
            run = await trainer.start(spec, f"run-{number}")
            async for _ in trainer.watch(run.run_id):
                pass
            await refused(policy, learner, trainer)
            await asyncio.sleep(2)  # for a scrape and an evaluation
            asked = len(missing)
            missing = [query for query in missing if not prometheus.values(query.expression)]
            print(f"after run {number}: {asked - len(missing)} of {asked} queries found numbers")
            if not missing:
                return
            assert time.monotonic() < deadline, "\n".join(map(str, missing))


def asked_by_panels() -> Iterator[Query]:
    """What Grafana would ask, for each service where the dashboard lets choose one."""
    for query in dashboard_queries():
        expression = query.expression.replace("$__rate_interval", RATE_INTERVAL)
        for job in JOBS if "$job" in expression else ("",):
            yield Query(f"{query.where} {job}", expression.replace("$job", job))


def asked_by_rules() -> Iterator[Query]:
    for query in rule_queries():
        for selector in selectors(query.expression):
            yield Query(query.where, str(selector.loosened("grpc_code")))


async def refused(policy: PolicyServer, learner: Learner, trainer: Trainer) -> None:
    """Asks each service for what it must refuse."""
    with pytest.raises(ServiceError):
        await learner.get("nobody")
    with pytest.raises(ServiceError):
        await trainer.get("nobody")
    with pytest.raises(grpc.aio.AioRpcError):
        await policy._stub.Decide(DecideRequest())
    # On a stream it is an answer among others.
    broken = StreamDecisionsRequest(query=DecisionQuery())
    [answer] = [each async for each in policy._stub.StreamDecisions(iter([broken]))]
    assert answer.HasField("error")
