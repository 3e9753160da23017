"""Policies of one's own in Python: a function or an object, served as Tamiyo serves its own.

import tamiyo

def decide(query):
    empty = [slot for slot in query.snapshot.slots if not slot.has_seed]
    return tamiyo.Choice.germinate(empty[0].slot_id) if empty else tamiyo.Choice.wait()

tamiyo.serve(decide, name="eager", version="1")
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chassis import process
from chassis.settings import load
from chassis.tracing import open_tracing
from chassis.validation import violations
from leyline.observation import spec_by_name
from leyline.v1.decision_pb2 import DecisionQuery
from leyline.v1.observation_pb2 import ObservationSpec
from tamiyo.policy import Choice, Policy, decision_from
from tamiyo.servicer import IMPLEMENTATION, Introduction
from tamiyo.serving import add_server_flags, serve_versions
from tamiyo.settings import PolicySettings
from tamiyo.versions import BuiltInVersions

Decide = Callable[[DecisionQuery], Choice]


@dataclass(frozen=True)
class _Function:
    """A function as a policy."""

    decide_one: Decide
    name: str
    version: str
    spec: ObservationSpec
    slots: int | None

    def decide(self, queries: Sequence[DecisionQuery]) -> Sequence[Choice]:
        return [self.decide_one(query) for query in queries]


@dataclass(frozen=True)
class _Checked:
    """A policy whose choices are looked at before they are sent."""

    policy: Policy
    name: str
    version: str
    spec: ObservationSpec
    slots: int | None

    def decide(self, queries: Sequence[DecisionQuery]) -> Sequence[Choice]:
        choices = self.policy.decide(queries)
        if len(choices) != len(queries):
            raise ValueError(f"{self.name} made {len(choices)} choices on {len(queries)} queries")
        for query, choice in zip(queries, choices, strict=True):
            self._check(query, choice)
        return choices

    def _check(self, query: DecisionQuery, choice: Choice) -> None:
        if not isinstance(choice, Choice):
            raise TypeError(f"{self.name} chose {choice!r}, which is no tamiyo.Choice")
        slots = [slot.slot_id for slot in query.snapshot.slots]
        if choice.slot_id not in (None, *slots):
            raise ValueError(f"{self.name} chose {choice}; the snapshot has the slots {slots}")
        broken = violations(decision_from(self, query, choice))
        if broken:
            raise ValueError(
                f"{self.name} chose {choice}: {broken[0].field or 'decision'}: "
                f"{broken[0].description}"
            )


def policy_of(
    policy: Policy | Decide,
    *,
    name: str | None = None,
    version: str | None = None,
    spec: ObservationSpec | str = "seed",
    slots: int | None = None,
) -> Policy:
    """Make a policy that can be served of what somebody has written; arguments as in `serve`.

    Raises:
        TypeError: it is neither a policy nor a function with a name and a version.
    """
    if isinstance(policy, type):
        raise TypeError(f"serve an instance, {policy.__name__}(), and not the class")
    if isinstance(policy, Policy):
        return _Checked(policy, policy.name, policy.version, policy.spec, policy.slots)
    if not callable(policy):
        raise TypeError(
            f"{policy!r} is neither a function nor a policy, which has a name, a version, a spec, "
            "slots and a method decide"
        )
    if not name or not version:
        raise TypeError("a function needs a name and a version: serve(f, name=..., version=...)")
    known = spec_by_name(spec) if isinstance(spec, str) else spec
    function = _Function(policy, name, f"{name}-{version}", known, slots)
    return _Checked(function, name, function.version, known, slots)


def serve(
    policy: Policy | Decide,
    *,
    name: str | None = None,
    version: str | None = None,
    spec: ObservationSpec | str = "seed",
    slots: int | None = None,
    deterministic: bool = True,
    argv: Sequence[str] | None = None,
) -> None:
    """Serve a policy until SIGTERM or SIGINT: validation, batches, deadlines, health, reflection,
    TLS and drain are taken care of. Leaves the process with exit code 2 where a flag is wrong, 3
    where the address is taken.

    Args:
        policy: a function from a query to a `Choice`, or an object like `tamiyo.Policy` (a
            `tamiyo.NetworkPolicy`, say), which brings the four arguments below itself. It is asked
            in one thread; an exception is the error of the query that caused it, and is logged.
        name: name of the policy.
        version: its version; another rule, another version. Decisions carry `NAME-VERSION`.
        spec: the observation spec that trainers must fill snapshots for, or a known one's name.
        slots: the number of slots that it decides for; None for any.
        deterministic: whether the same query always gets the same decision.
        argv: the command line; None: the process's own. `--help` lists the flags.

    Raises:
        TypeError: it is neither a policy nor a function with a name and a version.
    """
    served = policy_of(policy, name=name, version=version, spec=spec, slots=slots)
    introduction = Introduction(
        served.name, served.spec, f"{served.name} on {IMPLEMENTATION}", deterministic
    )
    parser = argparse.ArgumentParser(description=f"Serve the policy {served.version}.")
    add_server_flags(parser)
    flags = vars(parser.parse_args(argv))

    async def run(settings: PolicySettings) -> None:
        tracing = open_tracing(served.name, settings)
        versions = BuiltInVersions(served)
        await serve_versions(settings, introduction, versions, in_thread=True, tracing=tracing)

    code = process.main(served.name, lambda: load(PolicySettings, **flags), run)
    if code != process.ExitCode.OK:
        sys.exit(code)
